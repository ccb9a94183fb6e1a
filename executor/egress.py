"""The network of sandboxes that may call the public internet: a bridge of Hearth's own, and walls
in each sandbox's own namespace, put up before its first process runs (executor/firewall.py).

The bridge is shared by all nodes of a machine and stays: between its ports all is walled, and
whoever starts next finds it. Podman's own name server does not run on it, since that would answer
at an address of the host. It knows IPv4 alone; the walls close IPv6 all the same.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from core import destinations
from core.errors import SandboxBroken
from core.settings import Settings
from executor import netns
from executor.container import Bridge
from executor.firewall import Address, rules

log = logging.getLogger("hearth.executor")

Ask = Callable[..., Any]  # of Podman's service: method, path, body

NETWORK = "hearth-egress"
# As many addresses as a bridge of the kernel has ports. The first that nobody uses here is taken.
SUBNETS = tuple(f"10.{second}.{third}.0/22" for second in range(90, 100) for third in (0, 64, 128))


class Egress:
    """What a driver needs to boot such a sandbox."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.bridge = Bridge(NETWORK, folder / "resolv.conf")
        self._allowed = [destinations.parse(text) for text in settings.egress_allow]
        self._asked: tuple[Address, ...] | None = None
        self._turn = threading.Lock()  # several sandboxes boot at once, each in a thread

    def prepare(self, ask: Ask) -> None:
        """Before a container is created: its network is there, and its name servers are named.
        Blocks. SandboxBroken, PartAway."""
        with self._turn:
            if not _exists(ask):
                _create(ask)
            self._name_servers(_askable())

    def _name_servers(self, asked: tuple[Address, ...]) -> None:
        if asked == self._asked:
            return
        if not asked:
            log.warning(
                "functions with a network cannot resolve names: no name server of this host can be"
                " reached from a container"
            )
        # A new file, not a new text: a running container keeps the servers that its walls know.
        new = self.bridge.resolv_conf.with_suffix(".new")
        new.write_text(resolv_conf(asked))
        new.chmod(0o644)
        new.replace(self.bridge.resolv_conf)
        self._asked = asked

    def wall(self, pid: int) -> None:
        """Before the first process of a container runs. Blocks. SandboxBroken when it cannot be
        done: then it must not run."""
        # Read now: the bridge itself gives the host an address, when its first container is made.
        host = netns.host_addresses()
        netns.wall(pid, rules(resolvers=_askable(), host=host, destinations=self._allowed))


def resolv_conf(servers: Iterable[Address]) -> str:
    """The file for a container. No search domain: the host's would be told to whoever asks."""
    return "".join(f"nameserver {address}\n" for address in servers) + "search .\n"


def _askable() -> tuple[Address, ...]:
    return tuple(address for address in netns.resolvers() if address.version == 4)


def _exists(ask: Ask) -> bool:
    # The filter finds parts of names too.
    filters = quote(json.dumps({"name": [NETWORK]}))
    networks = ask("get", f"/networks/json?filters={filters}") or ()
    return any(found.get("name") == NETWORK for found in networks)


def _create(ask: Ask) -> None:
    for subnet in SUBNETS:
        try:
            ask("post", "/networks/create", _network(subnet))
        except SandboxBroken as error:
            if _exists(ask):  # another node of this machine was quicker
                return
            if "subnet" not in error.message or subnet == SUBNETS[-1]:
                raise
        else:
            return


def _network(subnet: str) -> dict[str, Any]:
    return {
        "name": NETWORK,
        "driver": "bridge",
        "subnets": [{"subnet": subnet}],
        "dns_enabled": False,
        "ipv6_enabled": False,
    }
