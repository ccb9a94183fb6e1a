"""What a sandbox's container is: the body of Podman's create call, as a pure function.

The fields are libpod's SpecGenerator: POST /libpod/containers/create,
https://docs.podman.io/en/latest/_static/api.html#tag/containers/operation/ContainerCreateLibpod
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.limits import MIB, SANDBOX_NOFILE, SANDBOX_PIDS_MAX, SANDBOX_TMP_MB
from runtimes.registry import Runtime

NODE_LABEL = "hearth.node"
_SHM_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class Bridge:
    """Where a container has a network: Podman's name of it, and the name servers to ask."""

    network: str
    resolv_conf: Path


def container_name(tag: str, sandbox_id: str) -> str:
    """What Podman calls a sandbox's container."""
    return f"hearth-{tag}-{sandbox_id}"


def sandbox_spec(
    *,
    runtime: Runtime,
    sandbox_id: str,
    tag: str,
    cgroup: str,
    uid: int,
    folder: Path,
    hosts: Path,
    nofile: int,
    bridge: Bridge | None = None,
) -> dict[str, Any]:
    """A hardened container that waits for a bind: no network unless a bridge is named, nothing
    writable but /tmp, no capabilities, an id of its own. `nofile` is the caller's own hard limit: a
    container may not raise it where root lacks CAP_SYS_RESOURCE."""
    return {
        "name": container_name(tag, sandbox_id),
        "image": runtime.image,
        "command": list(runtime.command),
        "labels": {NODE_LABEL: tag},
        "hostname": "sandbox",
        "env": {"PYTHONDONTWRITEBYTECODE": "1"},
        "httpproxy": False,
        "user": f"{uid}:{uid}",
        **_network(bridge),
        # Podman's own would tell the names and addresses in the host's /etc/hosts.
        "use_image_hosts": True,
        "use_image_resolve_conf": True,
        "cap_drop": ["ALL"],
        "no_new_privileges": True,
        "read_only_filesystem": True,
        "image_volume_mode": "ignore",
        "mounts": _mounts(folder, hosts, bridge),
        "shm_size": _SHM_BYTES,
        "cgroup_parent": cgroup,
        # conmon, and the Podman it starts to clean up, must not run within the function's limits.
        "cgroups_mode": "no-conmon",
        "resource_limits": {"pids": {"limit": SANDBOX_PIDS_MAX}},
        "r_limits": [
            _rlimit("nofile", min(nofile, SANDBOX_NOFILE)),
            # Counted for each user id on the host, and each sandbox has an id of its own.
            _rlimit("nproc", SANDBOX_PIDS_MAX),
            _rlimit("core", 0),  # a core dump would hold secrets
        ],
        "systemd": "false",
        "log_configuration": {"driver": "none"},
        "remove": True,
        "stop_timeout": 0,
    }


def _network(bridge: Bridge | None) -> dict[str, Any]:
    if bridge is None:
        return {"netns": {"nsmode": "none"}}
    return {"netns": {"nsmode": "bridge"}, "networks": {bridge.network: {}}}


def _mounts(folder: Path, hosts: Path, bridge: Bridge | None) -> list[dict[str, Any]]:
    resolv_conf = [] if bridge is None else [_file(bridge.resolv_conf, "/etc/resolv.conf")]
    return [
        _file(folder / "socket", "/run/hearth"),
        {
            "type": "bind",
            "source": str(folder / "task"),
            "destination": "/var/task",
            "options": ["rbind", "rslave", "ro", "nosuid", "nodev"],
        },
        _file(hosts, "/etc/hosts"),
        *resolv_conf,
        {
            "type": "tmpfs",
            "destination": "/tmp",
            "options": [f"size={SANDBOX_TMP_MB}m", "mode=1777", "nosuid", "nodev"],
        },
    ]


def _file(source: Path, destination: str) -> dict[str, Any]:
    options = ["bind", "ro", "nosuid", "nodev", "noexec"]
    return {
        "type": "bind",
        "source": str(source),
        "destination": destination,
        "options": options,
    }


def _rlimit(name: str, value: int) -> dict[str, Any]:
    return {"type": name, "soft": value, "hard": value}
