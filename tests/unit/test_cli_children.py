"""The commands and environments of the platform's processes, by exact value."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.children import (
    ChildSpec,
    Lifeline,
    Probe,
    Question,
    children_of,
    reachable,
    reachable_url,
    settings_environment,
)
from core.settings import Settings

CONF = Path("/data/containers.conf")


def settings(**variables: str) -> Settings:
    """Settings on /data."""
    fixed = {"HEARTH_DATA_DIR": "/data", "HEARTH_RUN_DIR": "/run/h"}
    return Settings.from_env({**fixed, **variables})


def children(environ: dict[str, str] | None = None, **variables: str) -> dict[str, ChildSpec]:
    """The children by name, in their order."""
    found = children_of(
        settings(**variables), python="/venv/python", environ=environ or {}, containers_conf=CONF
    )
    return {spec.name: spec for spec in found}


def test_children_start_from_the_parts_others_need() -> None:
    assert list(children()) == ["redis", "podman", "guard", "gateway", "builder"]


def test_an_external_redis_is_not_started() -> None:
    assert list(children(HEARTH_REDIS_URL="redis://db:6379/0")) == [
        "podman",
        "guard",
        "gateway",
        "builder",
    ]


def test_the_commands_are_these() -> None:
    commands = {name: spec.command for name, spec in children().items()}
    assert commands == {
        "redis": ("/venv/python", "-P", "-m", "events.redis_server"),
        "podman": ("podman", "system", "service", "--time", "0", "unix:///run/h/podman.sock"),
        "guard": ("/venv/python", "-P", "-m", "executor.guard"),
        "gateway": ("/venv/python", "-P", "-m", "gateway.main"),
        "builder": ("/venv/python", "-P", "-m", "worker.main"),
    }


def test_each_part_is_asked_in_its_own_way() -> None:
    found = children()
    assert found["redis"].probe == Probe(Question.REDIS_PING, "/run/h/redis.sock")
    assert found["podman"].probe == Probe(Question.PODMAN_PING, "/run/h/podman.sock")
    assert found["gateway"].probe == Probe(
        Question.READYZ, "127.0.0.1:8080", also="/run/h/gateway.sock"
    )
    assert found["guard"].probe == Probe(Question.NOTHING)


def test_the_gateway_has_its_drain_and_a_margin_to_stop() -> None:
    assert children(HEARTH_DRAIN_S="100")["gateway"].stop_timeout_s == 115


def test_guard_and_gateway_share_the_lifeline() -> None:
    found = children()
    assert found["guard"].lifeline is Lifeline.READS
    assert found["gateway"].lifeline is Lifeline.HOLDS
    assert found["builder"].lifeline is Lifeline.NONE


def test_children_get_the_resolved_settings_and_the_containers_conf() -> None:
    env = children({"PATH": "/bin", "HEARTH_KEY": "hk_mine", "HEARTH_URL": "x"})["gateway"].env
    assert env["PATH"] == "/bin"
    assert env["HEARTH_DATA_DIR"] == "/data"
    assert env["HEARTH_RUN_DIR"] == "/run/h"
    assert env["CONTAINERS_CONF"] == "/data/containers.conf"
    assert "HEARTH_KEY" not in env
    assert "HEARTH_URL" not in env


def test_podman_gets_no_setting_of_ours() -> None:
    env = children({"PATH": "/bin"}, HEARTH_S3_KEY_ID="a", HEARTH_S3_SECRET="b")["podman"].env
    assert env == {
        "PATH": "/bin",
        "CONTAINERS_CONF": "/data/containers.conf",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.mark.parametrize("name", ["CONTAINER_HOST", "NOTIFY_SOCKET", "LISTEN_FDS"])
def test_variables_that_redirect_children_are_dropped(name: str) -> None:
    assert name not in children({name: "x"})["podman"].env


def test_settings_survive_the_way_through_the_environment() -> None:
    chosen = settings(
        HEARTH_ADDRESS="[::1]:9000",
        HEARTH_TRUSTED_PROXIES="10.0.0.1, 10.0.0.2",
        HEARTH_S3_PATH_STYLE="true",
        HEARTH_DRAIN_S="2.5",
        HEARTH_STEMS="0",
        HEARTH_REDIS_URL="unix:///x.sock",
    )
    assert Settings.from_env(settings_environment(chosen)) == chosen


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("[::1]:8080", "[::1]:8080"),
        ("hearth.lan:443", "hearth.lan:443"),
    ],
)
def test_the_gateway_is_reached_where_it_listens(address: str, expected: str) -> None:
    assert reachable(settings(HEARTH_ADDRESS=address)) == expected
    assert reachable_url(settings(HEARTH_ADDRESS=address)) == f"http://{expected}"


@pytest.mark.parametrize(
    ("address", "expected"), [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80")]
)
def test_a_gateway_on_every_address_is_reached_on_the_loopback(address: str, expected: str) -> None:
    allowed = {"HEARTH_TLS_CERT": "/c.pem", "HEARTH_TLS_KEY": "/k.pem"}
    assert reachable_url(settings(HEARTH_ADDRESS=address, **allowed)) == f"https://{expected}"
