"""The exact container that is asked of Podman, without a Podman."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from executor.container import Bridge, sandbox_spec
from runtimes.registry import RUNTIMES
from tests.fixtures.sandboxes import PYTHON

MOUNTS = [
    {
        "type": "bind",
        "source": "/run/hearth/x/sandboxes/0a1b/socket",
        "destination": "/run/hearth",
        "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
    },
    {
        "type": "bind",
        "source": "/run/hearth/x/sandboxes/0a1b/task",
        "destination": "/var/task",
        "options": ["rbind", "rslave", "ro", "nosuid", "nodev"],
    },
    {
        "type": "bind",
        "source": "/run/hearth/x/sandboxes/hosts",
        "destination": "/etc/hosts",
        "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
    },
    {
        "type": "tmpfs",
        "destination": "/tmp",
        "options": ["size=64m", "mode=1777", "nosuid", "nodev"],
    },
]


def spec(
    nofile: int = 1_000_000, runtime: str = PYTHON.name, bridge: Bridge | None = None
) -> dict[str, Any]:
    return sandbox_spec(
        runtime=RUNTIMES[runtime],
        sandbox_id="0a1b",
        tag="feed",
        cgroup="/hearth-feed/0a1b",
        uid=200_123,
        folder=Path("/run/hearth/x/sandboxes/0a1b"),
        hosts=Path("/run/hearth/x/sandboxes/hosts"),
        nofile=nofile,
        bridge=bridge,
    )


def test_a_sandbox_is_exactly_this() -> None:
    assert spec() == {
        "name": "hearth-feed-0a1b",
        "image": "localhost/hearth-python3.13:latest",
        "command": ["python3", "-I", "-B", "/opt/hearth/shim.py"],
        "labels": {"hearth.node": "feed"},
        "hostname": "sandbox",
        "env": {"PYTHONDONTWRITEBYTECODE": "1"},
        "httpproxy": False,
        "user": "200123:200123",
        "netns": {"nsmode": "none"},
        "use_image_hosts": True,
        "use_image_resolve_conf": True,
        "cap_drop": ["ALL"],
        "no_new_privileges": True,
        "read_only_filesystem": True,
        "image_volume_mode": "ignore",
        "mounts": MOUNTS,
        "shm_size": 8 * 1024 * 1024,
        "cgroup_parent": "/hearth-feed/0a1b",
        "cgroups_mode": "no-conmon",
        "resource_limits": {"pids": {"limit": 256}},
        "r_limits": [
            {"type": "nofile", "soft": 1024, "hard": 1024},
            {"type": "nproc", "soft": 256, "hard": 256},
            {"type": "core", "soft": 0, "hard": 0},
        ],
        "systemd": "false",
        "log_configuration": {"driver": "none"},
        "remove": True,
        "stop_timeout": 0,
    }


def test_a_callers_lower_limit_of_descriptors_is_never_raised() -> None:
    assert spec(nofile=512)["r_limits"][0] == {"type": "nofile", "soft": 512, "hard": 512}


def test_an_image_has_one_command_and_runtimes_share_it_or_have_their_own() -> None:
    made = {(s["image"], tuple(s["command"])) for s in (spec(runtime=name) for name in RUNTIMES)}
    assert len({image for image, _ in made}) == len({command for _, command in made}) == len(made)
    assert len(made) == len(RUNTIMES) - 1  # dart3 runs what custom runs


def test_a_network_changes_this_and_nothing_else() -> None:
    made = spec(bridge=Bridge("hearth-egress", Path("/run/hearth/x/sandboxes/resolv.conf")))
    resolv_conf = {
        "type": "bind",
        "source": "/run/hearth/x/sandboxes/resolv.conf",
        "destination": "/etc/resolv.conf",
        "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
    }
    assert made == {
        **spec(),
        "netns": {"nsmode": "bridge"},
        "networks": {"hearth-egress": {}},
        "mounts": [*MOUNTS[:3], resolv_conf, MOUNTS[3]],
    }
