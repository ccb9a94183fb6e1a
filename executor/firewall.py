"""What a container with a network may reach: named endpoints and the public internet. Decides only.

Never the host (by any of its addresses), loopback, link-local, private or otherwise special
addresses, which is where neighbours, routers and cloud metadata live. Nobody reaches the container:
only answers come in. The rules go into the container's own network namespace, which it has no right
to change; nothing of the host's own firewall is touched. executor/netns.py applies them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from core.destinations import Destination

Address = IPv4Address | IPv6Address

DNS_PORT = 53

# Everything in the IANA special-purpose registries that is not globally reachable, and multicast.
REFUSED_V4 = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
# Of IPv6 only global unicast is open, without what carries an IPv4 address or is special in it.
PUBLIC_V6 = ip_network("2000::/3")
REFUSED_V6 = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An address that is allowed although it may be a refused one; None = every TCP port of it."""

    address: Address
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """Input of iptables-restore and ip6tables-restore. Each replaces all filters of a namespace."""

    v4: str
    v6: str


def rules(
    *,
    resolvers: Iterable[Address],
    host: Iterable[Address],
    allowed: Iterable[Endpoint] = (),
    destinations: Iterable[Destination] = (),
) -> Rules:
    """The rules for one namespace. First match wins: resolvers, allowed, refused, the rest.

    What is allowed is open even at an address of the host; that is what allowing it means. An
    endpoint is allowed for TCP, a destination for everything."""
    opened = [
        *(_open(endpoint) for endpoint in sorted(set(allowed), key=_order)),
        *(line for each in sorted(set(destinations), key=str) for line in _open_wide(each)),
    ]
    asked = sorted(set(resolvers), key=str)
    own = sorted(set(host), key=str)
    return Rules(
        v4=_table(4, opened, asked, own, refused=[str(net) for net in REFUSED_V4]),
        v6=_table(6, opened, asked, own, refused=[str(net) for net in REFUSED_V6]),
    )


def is_public(address: Address) -> bool:
    """Whether the rules let every container reach it (unless it is the host's own)."""
    if isinstance(address, IPv4Address):
        return not any(address in net for net in REFUSED_V4)
    return address in PUBLIC_V6 and not any(address in net for net in REFUSED_V6)


def _order(endpoint: Endpoint) -> tuple[str, int]:
    return str(endpoint.address), endpoint.port or 0


def _table(
    family: int,
    opened: Sequence[tuple[int, str]],
    resolvers: Sequence[Address],
    own: Sequence[Address],
    *,
    refused: Sequence[str],
) -> str:
    lines = ["*filter", ":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT DROP [0:0]"]
    # The container's own loopback, and answers to what was let out.
    lines += ["-A INPUT -i lo -j ACCEPT", "-A OUTPUT -o lo -j ACCEPT"]
    lines.append("-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
    if family == 6:
        lines += _neighbour_discovery()
    for address in resolvers:
        if address.version == family:
            for protocol in ("udp", "tcp"):
                lines.append(f"-A OUTPUT -d {address} -p {protocol} --dport {DNS_PORT} -j ACCEPT")
    lines += [line for version, line in opened if version == family]
    lines += [f"-A OUTPUT -d {a} -j REJECT" for a in own if a.version == family]
    lines += [f"-A OUTPUT -d {net} -j REJECT" for net in refused]
    public = "" if family == 4 else f" -d {PUBLIC_V6}"
    lines += [f"-A OUTPUT{public} -j ACCEPT", "-A OUTPUT -j REJECT"]
    return "\n".join([*lines, "COMMIT", ""])


def _open(endpoint: Endpoint) -> tuple[int, str]:
    port = "" if endpoint.port is None else f" --dport {endpoint.port}"
    return endpoint.address.version, f"-A OUTPUT -d {endpoint.address} -p tcp{port} -j ACCEPT"


def _open_wide(wanted: Destination) -> Iterator[tuple[int, str]]:
    to = f"-A OUTPUT -d {wanted.net}"
    if wanted.port is None:
        yield wanted.net.version, f"{to} -j ACCEPT"
    else:
        for protocol in ("tcp", "udp"):
            line = f"{to} -p {protocol} --dport {wanted.port} -j ACCEPT"
            yield wanted.net.version, line


def _neighbour_discovery() -> Iterator[str]:
    for kind in ("router-solicitation", "neighbour-solicitation", "neighbour-advertisement"):
        yield f"-A OUTPUT -p icmpv6 --icmpv6-type {kind} -j ACCEPT"
    for kind in ("router-advertisement", "neighbour-solicitation", "neighbour-advertisement"):
        yield f"-A INPUT -p icmpv6 --icmpv6-type {kind} -j ACCEPT"
