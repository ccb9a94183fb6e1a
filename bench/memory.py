"""Memory: of the platform's own processes, and of one idle sandbox with all that belongs to it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.client import BODY, ECHO, put, say
from bench.rows import Row
from bench.servers import Platform
from core.settings import Settings
from executor import cgroup, cleanup, mounts

SANDBOX_MB = 25


def sandbox_memory(client: httpx.Client, platform: Platform) -> Row:
    """An idle bound Python sandbox: what its control group holds (its processes, its page cache,
    its part of the kernel), and its conmon's own pages."""
    for number in range(5):
        put(client, f"bench-memory-{number}", ECHO)
        client.post(f"/v1/functions/bench-memory-{number}/invocations", content=BODY)
    time.sleep(1)
    run_dir = Settings.from_env(platform.environ).run_dir
    bound = [point.parent.name for point in mounts.mounts_below(run_dir / cleanup.SANDBOXES)
             if point.name == "task"]  # fmt: skip
    sizes = [_sandbox_mb(f"{cleanup.group_of(run_dir)}/{name}") for name in bound]
    value = statistics.median(sizes)
    spread = f"{min(sizes):.3g}–{max(sizes):.3g} of {len(sizes)}"
    return Row("sandbox_rss_mb", value, "MB", None, spread, "≤ 25 MB", value <= SANDBOX_MB)


def _sandbox_mb(group: str) -> float:
    root = cgroup.ROOT
    if cgroup.is_v2(root):
        held = int((root / group.lstrip("/") / "memory.current").read_text())
    else:
        held = int((root / "memory" / group.lstrip("/") / "memory.usage_in_bytes").read_text())
    monitors = {parent for pid in cgroup.processes(group) if (parent := _conmon_of(pid))}
    return held / 2**20 + sum(_private_mb(pid) for pid in monitors)


def _conmon_of(pid: int) -> int:
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    is_one = parent and Path(f"/proc/{parent}/comm").read_text().strip() == "conmon"
    return parent if is_one else 0


def _private_mb(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("Pss:")[1].split()[0]) / 1024


def idle_memory(data_dir: Path, floor_pid: int) -> list[Row]:
    """Resident memory of the platform's processes when nothing runs; its floor is one bare
    Starlette process. Sandboxes are not counted, they have their own budget."""
    time.sleep(3)
    sizes = dict(platform_processes(data_dir))
    ours = sum(mb for name, mb in sizes.items() if name in ("gateway", "builder", "worker"))
    every = sum(sizes.values())
    floor = rss_mb(floor_pid)
    detail = ", ".join(f"{name} {mb:.0f}" for name, mb in sorted(sizes.items()))
    say(f"idle memory in MB: {detail}")
    return [
        Row("idle_rss_mb", ours, "MB", floor, "gateway + builder", "", True),
        Row("idle_rss_all_mb", every, "MB", floor, "every process", "< 250 MB", every < 250),
    ]


def platform_processes(data_dir: Path) -> Iterator[tuple[str, float]]:
    """(name, MB) of the supervisor and each process it started."""
    supervisor = int((data_dir / "up.pid").read_text())
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if supervisor in (pid, parent):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield _named(command), rss_mb(pid)
        except (OSError, ValueError):
            continue  # it ended while we looked


def _named(command: str) -> str:
    known = {
        "gateway.main": "gateway",
        "worker.main": "builder",
        "executor.guard": "guard",
        "cli.up": "supervisor",
        "podman": "podman",
        "redis-server": "redis",
    }
    return next((name for word, name in known.items() if word in command), command[:40])


def rss_mb(pid: int) -> float:
    """VmRSS of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
