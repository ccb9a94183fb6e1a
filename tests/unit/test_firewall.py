"""The walls around a container with a network, as rules and as what they let through."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.destinations import parse
from executor.firewall import Address, Endpoint, is_public, rules

RESOLVER = IPv4Address("10.0.0.53")
INDEX = Endpoint(IPv4Address("192.168.7.7"), 8443)
ANY_PORT = Endpoint(IPv4Address("172.16.0.9"))
OWN = IPv4Address("8.8.4.4")  # a host may have a public address: it is still the host


def lets(text: str, address: Address, port: int, protocol: str = "tcp") -> bool:
    """A tiny reading of iptables' own: the first rule that matches decides."""
    for line in text.splitlines():
        if not line.startswith("-A OUTPUT"):
            continue
        words = line.split()
        options = dict(zip(words[2::2], words[3::2], strict=True))
        if "-o" in options or options.get("-p") == "icmpv6":
            continue
        net: IPv4Network | IPv6Network | None = None
        if "-d" in options:
            net = ip_network(options["-d"])
        if net is not None and (net.version != address.version or address not in net):
            continue
        if options.get("-p", protocol) != protocol:
            continue
        if options.get("--dport", str(port)) != str(port):
            continue
        return options["-j"] == "ACCEPT"
    return False


WALLS = rules(allowed=[INDEX, ANY_PORT], resolvers=[RESOLVER], host=[OWN, IPv6Address("2600::1")])


@pytest.mark.parametrize(
    ("address", "port", "protocol", "expected"),
    [
        ("10.0.0.53", 53, "udp", True),
        ("10.0.0.53", 53, "tcp", True),
        ("10.0.0.53", 80, "tcp", False),
        ("192.168.7.7", 8443, "tcp", True),
        ("192.168.7.7", 8443, "udp", False),
        ("192.168.7.7", 22, "tcp", False),
        ("172.16.0.9", 22, "tcp", True),
        ("8.8.4.4", 443, "tcp", False),
        ("8.8.8.8", 443, "tcp", True),
        ("169.254.169.254", 80, "tcp", False),
        ("127.0.0.1", 80, "tcp", False),
        ("100.64.0.1", 80, "tcp", False),
        ("0.0.0.0", 80, "tcp", False),
        ("255.255.255.255", 67, "udp", False),
        ("224.0.0.251", 5353, "udp", False),
    ],
)
def test_what_version_4_lets_through(
    address: str, port: int, protocol: str, expected: bool
) -> None:
    assert lets(WALLS.v4, ip_address(address), port, protocol) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("2606:4700::1111", True),
        ("2600::1", False),  # the host's own
        ("fd00::2", False),
        ("fe80::1", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),  # carries 10.0.0.1
        ("2002:0a00:0001::", False),  # likewise
        ("2001:0:1::", False),
        ("2001:db8::1", False),
        ("ff02::1", False),
    ],
)
def test_what_version_6_lets_through(address: str, expected: bool) -> None:
    assert lets(WALLS.v6, ip_address(address), 443) is expected


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_no_address_that_is_not_global_is_reachable_unless_allowed(address: Address) -> None:
    closed = rules(allowed=[], resolvers=[], host=[])
    text = closed.v4 if address.version == 4 else closed.v6
    reachable = lets(text, address, 443)
    assert reachable == is_public(address)
    if reachable:
        assert address.is_global or address in ip_network("2000::/3") or address.version == 4
        assert not (address.is_private or address.is_loopback or address.is_link_local)
        assert not address.is_multicast


def test_each_table_is_closed_where_no_rule_matches() -> None:
    for text in (WALLS.v4, WALLS.v6):
        lines = text.splitlines()
        assert lines[:4] == [
            "*filter",
            ":INPUT DROP [0:0]",
            ":FORWARD DROP [0:0]",
            ":OUTPUT DROP [0:0]",
        ]
        assert lines[-2:] == ["-A OUTPUT -j REJECT", "COMMIT"]


def test_what_operators_allow_is_open_for_everything_or_one_port() -> None:
    texts = ("10.7.0.0/16", "192.0.2.2:5432", "fd00::/64", "[fd01::5]:443", "8.8.4.4")
    text = rules(resolvers=[], host=[OWN], destinations=[parse(text) for text in texts])
    for address, port, protocol, expected in (
        ("10.7.3.4", 1, "udp", True),
        ("10.8.0.1", 1, "tcp", False),
        ("192.0.2.2", 5432, "tcp", True),
        ("192.0.2.2", 5432, "udp", True),
        ("192.0.2.2", 5433, "tcp", False),
        ("fd00::9", 80, "tcp", True),
        ("fd01::5", 443, "tcp", True),
        ("fd01::5", 80, "tcp", False),
        ("8.8.4.4", 80, "tcp", True),  # the host's own, and named
    ):
        found = ip_address(address)
        table = text.v4 if found.version == 4 else text.v6
        assert lets(table, found, port, protocol) is expected, (address, port, protocol)


def test_nothing_comes_in_but_answers() -> None:
    for text, more in ((WALLS.v4, 0), (WALLS.v6, 3)):
        let_in = [line for line in text.splitlines() if line.startswith("-A INPUT")]
        assert let_in[:2] == [
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        ]
        assert len(let_in) == 2 + more
        assert all("icmpv6" in line for line in let_in[2:])  # how neighbours find each other


def test_the_same_facts_in_another_order_are_the_same_rules() -> None:
    one = rules(allowed=[INDEX, ANY_PORT], resolvers=[RESOLVER], host=[OWN])
    two = rules(allowed=[ANY_PORT, INDEX, INDEX], resolvers=[RESOLVER, RESOLVER], host=[OWN])
    assert one == two
