"""How the network of sandboxes is made once, without a Podman."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from core.errors import SandboxBroken
from core.settings import Settings
from executor import egress, netns
from executor.egress import Egress, resolv_conf


class Podman:
    """Its networks, of which some subnets are taken."""

    def __init__(self, *names: str, taken: int = 0, rival: bool = False) -> None:
        self.names = list(names)
        self.made: list[dict[str, Any]] = []
        self._taken = taken
        self._rival = rival

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if method == "get":
            return [{"name": name} for name in self.names if egress.NETWORK in name]
        assert (method, path) == ("post", "/networks/create")
        assert body is not None
        if self._rival:
            self.names.append(egress.NETWORK)
            raise SandboxBroken("Podman refused: network name already used")
        if self._taken:
            self._taken -= 1
            raise SandboxBroken("Podman refused: subnet is already used on the host")
        self.made.append(body)
        self.names.append(egress.NETWORK)
        return body


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Egress:
    monkeypatch.setattr(netns, "resolvers", lambda: (IPv4Address("10.0.0.53"),))
    return Egress(Settings(), tmp_path)


def test_the_network_is_made_once_and_without_a_name_server_of_podmans(made: Egress) -> None:
    podman = Podman("hearth-egress-of-others")
    for _ in range(2):
        made.prepare(podman.ask)
    assert podman.made == [
        {
            "name": "hearth-egress",
            "driver": "bridge",
            "subnets": [{"subnet": egress.SUBNETS[0]}],
            "dns_enabled": False,
            "ipv6_enabled": False,
        }
    ]


def test_a_network_that_is_there_is_used(made: Egress) -> None:
    podman = Podman(egress.NETWORK)
    made.prepare(podman.ask)
    assert podman.made == []


def test_one_that_another_node_made_in_this_moment_is_used(made: Egress) -> None:
    podman = Podman(rival=True)
    made.prepare(podman.ask)
    assert podman.names == [egress.NETWORK]


def test_a_subnet_that_is_used_here_is_left_out(made: Egress) -> None:
    podman = Podman(taken=2)
    made.prepare(podman.ask)
    assert podman.made[0]["subnets"] == [{"subnet": egress.SUBNETS[2]}]


def test_a_machine_that_uses_them_all_is_told_so(made: Egress) -> None:
    with pytest.raises(SandboxBroken, match="subnet"):
        made.prepare(Podman(taken=len(egress.SUBNETS)).ask)


def test_only_name_servers_that_the_bridge_can_carry_are_named(
    made: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    podman = Podman(egress.NETWORK)
    made.prepare(podman.ask)
    file = made.bridge.resolv_conf
    assert file.read_text() == "nameserver 10.0.0.53\nsearch .\n"
    inode = file.stat().st_ino
    made.prepare(podman.ask)
    assert file.stat().st_ino == inode
    found = (IPv6Address("2600::53"), IPv4Address("10.0.0.54"))
    monkeypatch.setattr(netns, "resolvers", lambda: found)
    with file.open() as of_who_runs:
        made.prepare(podman.ask)
        assert file.read_text() == "nameserver 10.0.0.54\nsearch .\n"
        assert of_who_runs.read() == "nameserver 10.0.0.53\nsearch .\n"


def test_no_name_server_is_said_aloud(
    made: Egress, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(netns, "resolvers", tuple)
    with caplog.at_level(logging.WARNING):
        made.prepare(Podman(egress.NETWORK).ask)
        made.prepare(Podman(egress.NETWORK).ask)
    assert len(caplog.records) == 1
    assert "cannot resolve names" in caplog.text


def test_the_hosts_search_domains_stay_the_hosts() -> None:
    assert resolv_conf([]) == "search .\n"


def test_a_name_server_on_the_loopback_of_the_host_is_no_name_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text(
        "nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\n"
        "nameserver 169.254.169.254\nsearch corp\n"
    )
    monkeypatch.setattr(netns, "_RESOLV_CONFS", (conf,))
    assert netns.resolvers() == (IPv4Address("169.254.169.254"),)
