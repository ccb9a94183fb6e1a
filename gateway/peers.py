"""Who is at the other end: the peer itself, or what a trusted proxy says about its client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from core.errors import RequestInvalid
from core.limits import HOST_LENGTH_MAX
from core.settings import SettingsInvalid


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, and the X-Forwarded-* headers that say so to a function."""

    ip: str
    host: str
    headers: tuple[list[str], ...]


class Peers:
    """The proxies whose word counts."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """SettingsInvalid for what is neither an address nor a network."""
        try:
            self._trusted: tuple[IPv4Network | IPv6Network, ...] = tuple(
                ip_network(text, strict=False) for text in trusted
            )
        except ValueError as error:
            raise SettingsInvalid(f"HEARTH_TRUSTED_PROXIES: {error}") from None

    def origin(self, scope: Mapping[str, Any], head: Mapping[bytes, bytes]) -> Origin:
        """The client of a request whose headers are `head`. RequestInvalid."""
        client = scope.get("client")
        ip = client[0] if client else ""
        proto = scope.get("scheme") or "http"
        host = head.get(b"host", b"").decode("latin-1")
        chain = ip
        if self._trusted and self._is_trusted(ip):
            sent = head.get(b"x-forwarded-for", b"").decode("latin-1")
            chain = f"{sent}, {ip}" if sent else ip
            ip = self._client_of(chain)
            proto = "https" if head.get(b"x-forwarded-proto", b"").lower() == b"https" else proto
            host = head.get(b"x-forwarded-host", b"").decode("latin-1") or host
        if len(host) > HOST_LENGTH_MAX:
            raise RequestInvalid(f"the host is over {HOST_LENGTH_MAX} characters")
        port = host.rpartition(":")[2]
        if not port.isdigit():
            port = "443" if proto == "https" else "80"
        return Origin(
            ip,
            host,
            (
                ["x-forwarded-for", chain],
                ["x-forwarded-proto", proto],
                ["x-forwarded-port", port],
            ),
        )

    def _client_of(self, chain: str) -> str:
        """The nearest address that is no trusted proxy: what stands before it anybody may claim."""
        hops = [hop.strip() for hop in chain.split(",")]
        for hop in reversed(hops):
            if not self._is_trusted(hop):
                return hop
        return hops[0]

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)
