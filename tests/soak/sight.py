"""What a running platform holds, seen from outside: counts that must come back to where they were
when nothing runs, whatever ran in between."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.leftovers import node_tag
from core.settings import Settings
from tests.fixtures.api import containers, seat_ids

# Descriptors that the gateway holds for each sandbox: its connection; two log pipes; the pidfds of
# shim and conmon; the out-of-memory event; freezer, CPU and peak memory of its control group.
OF_A_SANDBOX = {"socket": 1, "pipe": 2, "pidfd": 2, "eventfd": 1, "cgroup": 3}
# Connections that stay open for later use: to Redis, to Podman, to the database (each of which has
# a pool with a bound of its own), one for each thread that ever spoke to it.
KEPT_OPEN_MAX = {"socket": 40, "data": 24}


@dataclass(frozen=True, slots=True)
class Sight:
    """One look."""

    pid: int  # of the gateway
    stats: dict[str, Any]
    files: Counter[str]  # the gateway's descriptors by kind
    children: int  # of the gateway: it has none
    rss_mb: float
    containers: frozenset[str]  # by the id of the sandbox
    groups: frozenset[str]
    folders: frozenset[str]
    mounted: frozenset[str]
    conmons: int

    @property
    def sandboxes(self) -> int:
        """As many as the gateway says there are when nothing begins or ends."""
        return int(self.stats["idle"] + sum(self.stats["stems"].values()))


def stats(settings: Settings) -> dict[str, Any]:
    """GET /internal/stats."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(settings.internal_socket))
        connection = http.client.HTTPConnection("internal")
        connection.sock = sock
        connection.request("GET", "/internal/stats", headers={"connection": "close"})
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found


def rss_mb(pid: int) -> float:
    """What a process holds in memory, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def look(settings: Settings, pid: int) -> Sight:
    """All of it, one thing after the other: while nothing runs they agree."""
    tag = node_tag(settings.run_dir)
    name = f"hearth-{tag}-"
    folders = {p.name for p in (settings.run_dir / "sandboxes").iterdir() if p.is_dir()}
    return Sight(
        pid=pid,
        stats=stats(settings),
        files=_files(settings, pid),
        children=_children(pid),
        rss_mb=rss_mb(pid),
        containers=frozenset(c.removeprefix(name) for c in containers(settings)),
        groups=frozenset(_groups(tag)),
        folders=frozenset(folders),
        mounted=frozenset(seat_ids(settings)),
        conmons=_conmons(name),
    )


def leaked(before: Sight, now: Sight, kept: int) -> list[str]:
    """What is there and should not be, or the reverse, when nothing runs; `kept` seats stay."""
    is_told = now.stats
    busy = {k: is_told[k] for k in ("busy", "booting", "waiting", "leaving") if is_told[k]}
    ids = {"containers": now.containers, "control groups": now.groups, "folders": now.folders}
    total = now.sandboxes
    wrong = [f"still {what}: {count}" for what, count in busy.items()]
    if is_told["idle"] != kept or len(now.mounted) != kept:
        wrong.append(f"{is_told['idle']} seats, {len(now.mounted)} with code, {kept} are kept")
    wrong += [f"{len(x)} {what} of {total} sandboxes" for what, x in ids.items() if len(x) != total]
    if now.conmons != total:
        wrong.append(f"{now.conmons} conmons of {total} sandboxes")
    if is_told["tasks"] > before.stats["tasks"]:
        wrong.append(f"{is_told['tasks']} tasks, {before.stats['tasks']} at first")
    if now.children:
        wrong.append(f"the gateway has {now.children} children")
    more = total - before.sandboxes
    for kind in now.files:
        most = before.files[kind] + OF_A_SANDBOX.get(kind, 0) * more
        if now.files[kind] > max(most, most + KEPT_OPEN_MAX.get(kind, 0)):
            wrong.append(f"{now.files[kind]} open files of kind {kind}, {most} expected")
    return wrong


def _files(settings: Settings, pid: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue  # closed meanwhile
        if match := re.match(r"(socket|pipe):|anon_inode:\[?(\w+)", target):
            found[match[1] or match[2]] += 1
        elif target.startswith("/sys/fs/cgroup"):
            found["cgroup"] += 1
        elif target.startswith(str(settings.data_dir)):
            found["data"] += 1
        else:
            found[target] += 1
    return found


def _groups(tag: str) -> Iterator[str]:
    root = Path("/sys/fs/cgroup")
    for parent in (root / f"hearth-{tag}", *root.glob(f"*/hearth-{tag}")):
        if parent.is_dir():
            yield from (p.name for p in parent.iterdir() if p.is_dir() and p.name != "still")


def _children(pid: int) -> int:
    return sum(len(p.read_text().split()) for p in Path(f"/proc/{pid}/task").glob("*/children"))


def _conmons(name: str) -> int:
    found = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            first = command.partition(b"\0")[0]
            found += first.endswith(b"conmon") and name.encode() in command
    return found
