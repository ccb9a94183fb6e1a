"""Where an operator lets functions connect to, as written in HEARTH_EGRESS_ALLOW."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network

PORT_MAX = 65535
_BRACKETED = re.compile(r"\[(?P<net>[^\]]*)\](?::(?P<port>.*))?")
_WITH_PORT = re.compile(r"(?P<net>[^:]*):(?P<port>[^:]*)")
TAKES = "an address, a network, or either with :port (an IPv6 one in brackets then)"


@dataclass(frozen=True, slots=True)
class Destination:
    """Addresses and one port of them, or every port when it is None."""

    net: Network
    port: int | None = None


def parse(text: str) -> Destination:
    """10.0.0.5, 10.0.0.0/8, fd00::/8, 10.0.0.5:5432, [fd00::5]:5432, … ValueError says what is
    wrong with another text, in half a sentence."""
    match = _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text)
    net, port = (match["net"], match["port"]) if match else (text, None)
    if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= PORT_MAX):
        raise ValueError(f"{port!r} is no port from 1 to {PORT_MAX}")
    try:
        found = ip_network(net)
    except ValueError as error:
        if "host bits" in str(error):
            meant = ip_network(net, strict=False)
            raise ValueError(f"{net} is no network; {meant} is the one it is in") from None
        raise ValueError(f"{net!r} is no address and no network") from None
    if text.startswith("[") and found.version == 4:
        raise ValueError("brackets are for IPv6")
    if isinstance(found, IPv6Network) and found.network_address.scope_id is not None:
        raise ValueError(f"{net} names an interface of this host")
    return Destination(found, None if port is None else int(port))
