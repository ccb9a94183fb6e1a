"""A soak: everything at once on one platform, for as long as one likes; then nothing may be left.

Rounds of load, each followed by a silence in which the books must add up and every seat, container,
control group, mount, descriptor and task must be gone that the load had brought.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import httpx

from tests.fixtures.api import deploy
from tests.fixtures.platform import Platform
from tests.soak.books import Books
from tests.soak.clients import Client, Scene
from tests.soak.functions import KEPT, KINDS
from tests.soak.sight import Sight, leaked, look, rss_mb

CLIENTS = 40
ROUND_S = 60.0
SAYS_EVERY_S = 30.0
LOOKS_EVERY_S = 1.0
SILENT_S = 120.0  # patience for seats to expire and sandboxes to end; never a matter of speed
PAUSE_S = 3.0  # the longest between two deploys
# Log buffers may hold 16 MiB, streams 256 KiB for each of the clients, and what malloc keeps of
# both depends on the order in which they came and went. A leak of a kilobyte for each call is four
# times that after ten minutes of a slow machine.
GROWTH_MAX_MB = 40.0
# Memory for what the load needs at once, so that what is warm is called; some seats are evicted.
SETTINGS = {"HEARTH_MEMORY_BUDGET_MB": "6144", "HEARTH_DEFAULT_MEMORY_MB": "64"}


@dataclass(eq=False, slots=True)
class Report:
    """What a soak found. `wrong` is empty when all is well."""

    books: Books
    seconds: float = 0.0
    deploys: int = 0
    rounds: int = 0
    rss: list[tuple[float, float]] = field(default_factory=list)  # seconds of load, MiB
    before: Sight | None = None
    after: Sight | None = None
    complaints: list[str] = field(default_factory=list)  # what the gateway logged as a warning
    wrong: list[str] = field(default_factory=list)

    def rss_at(self, share: float) -> float:
        """The largest of the samples near this share of the load's time."""
        middle = share * self.seconds
        near = sorted(self.rss, key=lambda sample: abs(sample[0] - middle))[:5]
        return max(mb for _, mb in near)

    def text(self) -> str:
        """For people."""
        lines = [self.books.table(), ""]
        total = sum(self.books.sent.values())
        lines.append(
            f"{total} requests in {self.seconds:.0f} s of load ({total / self.seconds:.0f}/s), "
            f"{self.rounds} rounds, {self.deploys} deploys meanwhile"
        )
        lines.append(
            f"the gateway held {self.rss[0][1]:.0f} MB at first, {self.rss_at(1 / 3):.0f} MB after "
            f"a third, {self.rss_at(1):.0f} MB at the end"
        )
        for when, sight in (("before", self.before), ("after", self.after)):
            if sight is not None:
                files = ", ".join(f"{n} {kind}" for kind, n in sorted(sight.files.items()))
                lines.append(f"{when}: {sight.stats}; files: {files}")
        lines += [f"logged: {line}" for line in self.complaints]
        lines += [f"WRONG: {line}" for line in self.wrong]
        return "\n".join([*lines, "all is well" if not self.wrong else "NOT WELL"])


async def soak(
    platform: Platform, seconds: float, say: Callable[[str], None] = lambda text: None
) -> Report:
    """Load the platform for so many seconds. It is fresh: no function of these names is there."""
    settings = platform.settings
    scene = Scene(settings.host, settings.port, platform.key)
    report = Report(scene.books)
    pid = platform.running.children["gateway"]
    await asyncio.to_thread(_deploy_all, platform, scene)
    report.before = await _silence(platform, pid, None, report)
    report.rss.append((0.0, rss_mb(pid)))
    clients = [Client(scene, f"c{number}") for number in range(CLIENTS)]
    while report.seconds < seconds and not report.wrong:
        await _round(platform, scene, clients, min(ROUND_S, seconds - report.seconds), report, say)
        report.rounds += 1
        if report.wrong:  # the gateway has died: there is nothing to look at
            break
        report.after = await _silence(platform, pid, report.before, report)
        report.wrong += scene.books.check()
        await asyncio.to_thread(_check_logs, platform, report)
    grown = report.rss_at(1) - report.rss_at(1 / 3)
    if grown > GROWTH_MAX_MB:
        report.wrong.append(f"the gateway's memory has grown by {grown:.0f} MB since a third")
    if platform.running.children["gateway"] != pid:
        report.wrong.append("the gateway was started again")
    return report


async def _round(
    platform: Platform,
    scene: Scene,
    clients: list[Client],
    seconds: float,
    report: Report,
    say: Callable[[str], None],
) -> None:
    """Load, until everybody has had an answer."""
    scene.is_loud = True
    started = time.monotonic()
    pid = platform.running.children["gateway"]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        group.create_task(asyncio.to_thread(_redeploy, platform, scene, report))
        before, said = report.seconds, report.seconds
        while (gone := time.monotonic() - started) < seconds:
            await asyncio.sleep(min(LOOKS_EVERY_S, seconds - gone))
            report.seconds = before + time.monotonic() - started
            try:
                report.rss.append((report.seconds, rss_mb(pid)))
            except OSError:
                report.wrong.append("the gateway has died")
                break
            if report.seconds - said >= SAYS_EVERY_S:
                said = report.seconds
                say(_progress(report))
        scene.is_loud = False


def _progress(report: Report) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.books.kinds().items()))
    return f"{report.seconds:5.0f} s  {report.rss[-1][1]:.0f} MB  {kinds}"


def _deploy_all(platform: Platform, scene: Scene) -> None:
    with platform.client() as client:
        for kind in KINDS:
            made = deploy(client, kind.name, kind.code_of(1), **kind.config)
            scene.active[kind.name] = made["version"]


def _redeploy(platform: Platform, scene: Scene, report: Report) -> None:
    """One of the functions after the other gets its next version, while it is called."""
    random = Random(report.rounds)
    kinds = [kind for kind in KINDS if kind.is_redeployed]
    with platform.client() as client:
        while scene.is_loud:
            kind = random.choice(kinds)
            number = scene.active[kind.name] + 1
            try:
                made = deploy(client, kind.name, kind.code_of(number), **kind.config)
            except (AssertionError, httpx.HTTPError) as problem:
                scene.books.wrong.append(f"deploy {number} of {kind.name}: {problem}")
                return
            report.deploys += 1
            scene.active[kind.name] = made["version"]
            time.sleep(random.uniform(0, PAUSE_S))


async def _silence(platform: Platform, pid: int, before: Sight | None, report: Report) -> Sight:
    """Wait until nothing is there that should not be; else it is wrong."""
    until = time.monotonic() + SILENT_S
    while True:
        sight = await asyncio.to_thread(look, platform.settings, pid)
        left = leaked(before or sight, sight, KEPT)
        if not left or time.monotonic() > until:
            report.wrong += left
            return sight
        await asyncio.sleep(0.2)


def _check_logs(platform: Platform, report: Report) -> None:
    """Each line that a call printed is that call's, and the gateway had nothing to be sorry for."""
    with platform.client() as client:
        for kind in KINDS:
            text = client.get(f"/v1/functions/{kind.name}/logs", params={"tail": 2_000}).text
            lines = [json.loads(line) for line in text.splitlines()]
            of = [x for x in lines if x["stream"] == "stdout" and x["text"].startswith("of ")]
            wrong = [x for x in of if x["text"] != f"of {x['invocation_id']}"]
            report.wrong += [f"{kind.name}: another call's line: {x}" for x in wrong[:3]]
            if not of:
                report.wrong.append(f"{kind.name}: has logged nothing")
    log = (platform.settings.data_dir / "log" / "gateway.log").read_text(errors="replace")
    lines = [line for line in log.splitlines() if not line.startswith("INFO")]
    serious = ("ERROR", "CRITICAL", "Traceback", "Exception", "Task ")
    report.complaints = [x for x in lines if "response broke off" not in x][-20:]
    report.wrong += [f"logged: {x}" for x in lines if x.startswith(serious)][:10]


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"· {text}\n")
