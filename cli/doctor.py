"""`hearth doctor`: every prerequisite, whether it holds, and how to mend it when it does not."""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from cli.facts import Facts, gather
from core.settings import Settings, SettingsInvalid

PYTHON_MIN = (3, 11)
PODMAN_MIN = (4, 3)
CONTROLLERS = ("memory", "cpu", "pids", "freezer")
CAPABILITIES = {"SYS_ADMIN": 21, "NET_ADMIN": 12, "SETUID": 7, "SETGID": 6, "KILL": 5}
FREE_BYTES_MIN = 2 * 1024**3
MEMORY_BYTES_MIN = 1024**3
NOFILE_MIN = 1024
IMAGE_AGE_DAYS_MAX = 60
SOCKET_PATH_BYTES_MAX = 107  # of a Unix socket's address, a limit of the kernel
SOCKET_PATH_ROOM = 60  # what Hearth appends to the run directory, with room to spare


@dataclass(frozen=True, slots=True)
class Check:
    """One prerequisite. `mend` says what to do, and is empty where nothing needs doing."""

    name: str
    ok: bool
    says: str
    mend: str = ""


def doctor(json: bool = False) -> int:
    """Check this machine. 0 when nothing stands in Hearth's way, 1 otherwise."""
    try:
        checks = run_checks(Settings.from_env())
    except SettingsInvalid as error:
        checks = [Check("settings", ok=False, says=str(error), mend="correct the variable")]
    if json:
        body = {"ok": all(check.ok for check in checks), "checks": [asdict(c) for c in checks]}
        sys.stdout.write(json_format.dumps(body, indent=2) + "\n")
    else:
        render(checks)
    return 0 if all(check.ok for check in checks) else 1


def run_checks(settings: Settings) -> list[Check]:
    """Look at the machine and judge what was found; only root can see how things stand for root."""
    if uid := os.geteuid():
        return [_root(uid)]
    return judge(gather(settings), settings)


def judge(facts: Facts, settings: Settings) -> list[Check]:
    """Every check, in the order in which to mend them."""
    return [
        *_rights(facts),
        *_programs(facts, settings),
        *_containers(facts),
        *_network(facts),
        *_places(facts, settings),
        *_images(facts),
    ]


def render(checks: Sequence[Check]) -> None:
    """The table that a person reads."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "[green]✓[/]" if check.ok else "[bold red]✗[/]"
        console.print(f" {mark} {check.name:<{width}}  {escape(check.says)}", soft_wrap=True)
        if check.mend:
            pad = " " * (width + 5)
            console.print(f"{pad}[yellow]→ {escape(check.mend)}[/]", soft_wrap=True)
    bad = sum(not check.ok for check in checks)
    verdict = f"[bold red]{bad} to mend[/]" if bad else "[green]This machine can run Hearth.[/]"
    console.print(f"\n{verdict}")


def _check(name: str, ok: bool, says: str, mend: str) -> Check:
    return Check(name, ok, says, "" if ok else mend)


def _root(uid: int) -> Check:
    return _check(
        "root",
        uid == 0,
        "running as root" if uid == 0 else f"running as uid {uid}; nothing else was looked at",
        "run hearth as root or with sudo: sandboxes need mounts, cgroups and ids of their own",
    )


def _rights(facts: Facts) -> Iterator[Check]:
    yield _root(facts.uid)
    lacking = [n for n, bit in CAPABILITIES.items() if not facts.capabilities >> bit & 1]
    yield _check(
        "capabilities",
        not lacking,
        f"lacking {', '.join(lacking)}" if lacking else "all that is needed",
        "start hearth outside of the container or service unit that takes them away",
    )
    yield _check(
        "open files",
        facts.nofile >= NOFILE_MIN,
        f"up to {facts.nofile}",
        f"raise the limit: ulimit -n {NOFILE_MIN * 16}, or LimitNOFILE= in the service unit",
    )
    yield _check(
        "memory",
        facts.memory_bytes >= MEMORY_BYTES_MIN,
        f"{facts.memory_bytes / 1024**3:.1f} GiB",
        "give the machine at least 1 GiB",
    )


def _programs(facts: Facts, settings: Settings) -> Iterator[Check]:
    yield _check(
        "python",
        facts.python >= PYTHON_MIN,
        ".".join(map(str, facts.python)),
        "install Python 3.11 or newer, then remove .venv and run make setup",
    )
    local = not (settings.python_base_image and settings.node_base_image)
    yield _check(
        "mmdebstrap",
        bool(facts.mmdebstrap) or not local,
        facts.mmdebstrap or ("not installed" if local else "not needed"),
        "make setup, or name base images: HEARTH_PYTHON_BASE_IMAGE and HEARTH_NODE_BASE_IMAGE",
    )
    embedded = settings.redis_is_embedded
    yield _check(
        "redis-server",
        bool(facts.redis_server) or not embedded,
        facts.redis_server or "not found" if embedded else "HEARTH_REDIS_URL names another",
        "make setup, or name a Redis of your own: HEARTH_REDIS_URL",
    )
    yield _check(
        "certificates",
        bool(facts.ca_bundle),
        facts.ca_bundle or "no bundle of certificate authorities",
        "apt-get install ca-certificates, or name a bundle: SSL_CERT_FILE",
    )


def _containers(facts: Facts) -> Iterator[Check]:
    version = tuple(int(part) for part in facts.podman.split(".")[:2] if part.isdigit())
    yield _check(
        "podman",
        version >= PODMAN_MIN,
        facts.podman or facts.podman_says,
        f"make setup installs it; {'.'.join(map(str, PODMAN_MIN))} is the oldest that works",
    )
    yield _check(
        "storage",
        facts.storage_driver in ("overlay", "btrfs", "zfs"),
        f"{facts.storage_driver or 'unknown'} in {facts.storage_dir}",
        "modprobe overlay, and remove the storage that was made without it",
    )
    yield _check(
        "containers.conf",
        not facts.conf_says,
        facts.conf_says or str(facts.conf),
        "mend what it says; crun and runc come with make setup",
    )
    yield _check(
        "a container runs",
        facts.container == "works",
        "yes" if facts.container == "works" else facts.container,
        "mend what stands above and below; then `python -m cli.host` tries again",
    )
    missing = [name for name in CONTROLLERS if name not in facts.controllers]
    yield _check(
        "cgroups",
        facts.cgroups != "none" and not missing,
        f"{facts.cgroups}, without {', '.join(missing)}" if missing else facts.cgroups,
        "boot with them: cgroup_enable=memory swapaccount=1 on the kernel's command line",
    )


def _network(facts: Facts) -> Iterator[Check]:
    absent = [name for name, path in facts.network_programs.items() if not path]
    yield _check(
        "network programs",
        not absent,
        f"missing: {', '.join(absent)}" if absent else ", ".join(facts.network_programs),
        "make setup; builds and functions with network: egress need them",
    )
    yield _check(
        "firewall",
        not facts.iptables_says,
        facts.iptables_says or "iptables answers",
        "modprobe ip_tables iptable_nat (or nf_tables): Podman's bridge is made of its rules",
    )


def _places(facts: Facts, settings: Settings) -> Iterator[Check]:
    yield _check(
        "data directory",
        not facts.data_dir_says,
        f"{settings.data_dir}{': ' if facts.data_dir_says else ''}{facts.data_dir_says}",
        "make it writable, or name another: HEARTH_DATA_DIR",
    )
    for name, free in (("data", facts.data_free_bytes), ("images", facts.storage_free_bytes)):
        yield _check(
            f"room for {name}",
            free >= FREE_BYTES_MIN,
            f"{free / 1024**3:.1f} GiB free",
            f"free {FREE_BYTES_MIN // 1024**3} GiB there; podman image prune may help",
        )
    length = len(str(settings.run_dir).encode())
    yield _check(
        "run directory",
        length <= SOCKET_PATH_BYTES_MAX - SOCKET_PATH_ROOM,
        str(settings.run_dir),
        f"name a shorter one: HEARTH_RUN_DIR, up to {SOCKET_PATH_BYTES_MAX - SOCKET_PATH_ROOM}"
        " bytes (a socket's whole path has a limit)",
    )
    yield _check(
        "address",
        facts.address in ("free", "ours"),
        f"{settings.address} is {'served by Hearth' if facts.address == 'ours' else facts.address}",
        "stop what listens there, or name another: HEARTH_ADDRESS",
    )


def _images(facts: Facts) -> Iterator[Check]:
    if facts.images_say:
        yield Check("images", ok=False, says=facts.images_say, mend="hearth images build")
    for row in facts.images:
        state = "ready" if row["ready"] else "out of date" if row["id"] else "missing"
        check = _check(f"image {row['name']}", row["ready"], state, "hearth images build")
        yield _aged(check, row) if row["name"] == "base" else check


def _aged(check: Check, row: dict[str, Any]) -> Check:
    """A base that is ready but old works; it lacks Debian's newest security updates."""
    if not row["created"] or not check.ok:
        return check
    made = datetime.fromisoformat(row["created"])
    days = (datetime.now(UTC) - made).days
    if days <= IMAGE_AGE_DAYS_MAX:
        return check
    mend = "hearth images build --refresh brings Debian's updates"
    return Check(check.name, ok=True, says=f"ready, {days} days old", mend=mend)
