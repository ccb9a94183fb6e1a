"""What HEARTH_EGRESS_ALLOW takes, and what it says of the rest."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from core.destinations import Destination, parse
from core.settings import Settings, SettingsInvalid


@pytest.mark.parametrize(
    ("text", "net", "port"),
    [
        ("10.0.0.5", "10.0.0.5/32", None),
        ("10.0.0.0/8", "10.0.0.0/8", None),
        ("10.0.0.5:5432", "10.0.0.5/32", 5432),
        ("10.0.0.0/8:65535", "10.0.0.0/8", 65535),
        ("fd00::5", "fd00::5/128", None),
        ("fd00::/8", "fd00::/8", None),
        ("[fd00::5]", "fd00::5/128", None),
        ("[fd00::5]:5432", "fd00::5/128", 5432),
        ("[fd00::/8]:1", "fd00::/8", 1),
    ],
)
def test_an_address_or_a_network_with_or_without_a_port(
    text: str, net: str, port: int | None
) -> None:
    assert parse(text) == Destination(ip_network(net), port)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("db.internal", "'db.internal' is no address"),
        ("db.internal:5432", "'db.internal' is no address"),
        ("10.0.0.5/8", "10.0.0.0/8 is the one it is in"),
        ("10.0.0.5:0", "'0' is no port"),
        ("10.0.0.5:65536", "'65536' is no port"),
        ("10.0.0.5:", "'' is no port"),
        ("10.0.0.5:http", "'http' is no port"),
        ("10.0.0.5:\u0661", "is no port"),
        ("10.0.0.0/33", "is no address"),
        ("[10.0.0.5]:80", "brackets are for IPv6"),
        ("[fd00::5]80", "is no address"),
        ("[fd00::5", "is no address"),
        ("fe80::1%eth0", "interface"),
        ("http://10.0.0.5", "is no port"),
        ("-d 10.0.0.5", "is no address"),
        ("10.0.0.5 -j ACCEPT", "is no address"),
    ],
)
def test_anything_else_is_refused_at_the_start_by_name(text: str, says: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        Settings.from_env({"HEARTH_EGRESS_ALLOW": f"10.0.0.1, {text}"})
    assert "HEARTH_EGRESS_ALLOW takes an address, a network" in str(caught.value)
    assert says in str(caught.value)


def test_a_list_is_read_with_and_without_blanks() -> None:
    settings = Settings.from_env(
        {"HEARTH_EGRESS_ALLOW": " 10.0.0.1:5432,[fd00::5]:443 , ,10.1.0.0/16"}
    )
    assert settings.egress_allow == ("10.0.0.1:5432", "[fd00::5]:443", "10.1.0.0/16")
