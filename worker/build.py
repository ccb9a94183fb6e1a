"""A build: from an uploaded archive to a version that answers, or to a reason why it does not.

Builder.build reads as the story. A build may be interrupted anywhere, by kill -9 too: what it does
is repeated by whoever claims it next, and nothing it did before can hurt.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from catalog.catalog import Catalog
from core.errors import (
    BuildFailed,
    Conflict,
    HearthError,
    PartAway,
    VersionNotActive,
    VersionNotFound,
)
from core.limits import BUILD_ATTEMPTS_MAX, BUILD_STALE_S, BUILD_WAIT_S
from core.model import Build, BuildStatus, Version, VersionStatus
from core.settings import Settings
from events.notices import Notices
from runtimes import registry
from storage.archive import unpack
from storage.scratch import scratch_dir
from storage.store import ObjectStore, object_key
from worker.build_log import BuildLog
from worker.handler_check import CheckCall, GatewayAway, NotNow
from worker.identity import is_dead
from worker.installation import Installer, Job
from worker.pulse import HandedBack, Pulse, TakenOver

_ERROR_LENGTH_MAX = 500
_FIRST_PAUSE_S = 0.1

log = logging.getLogger("hearth.builder")


@dataclass(slots=True)
class Builder:
    """Builds for one node. Thread-safe."""

    name: str
    settings: Settings
    catalog: Catalog
    store: ObjectStore
    notices: Notices
    installer: Installer
    stopping: threading.Event

    @property
    def folder(self) -> Path:
        """Where builds work; what dead ones left is swept."""
        return self.settings.data_dir / "builds"

    def build(self, version_id: str) -> None:
        """The job. Nothing happens unless the build is waiting, or its builder died."""
        try:
            build = self._claim(version_id)
        except PartAway as away:
            log.warning("%s is left for later: %s", version_id, away.message)
            return
        if build is None:
            return
        build_log = BuildLog()
        with Pulse(self.catalog, version_id, self.name, build_log, self.stopping) as pulse:
            try:
                self._finish(version_id, build_log, self._outcome(build, build_log, pulse))
            except TakenOver:
                log.info("%s was taken over", version_id)
            except HandedBack:
                self._hand_back(version_id, build_log, "this builder is shutting down")
            except PartAway as away:
                self._hand_back(version_id, build_log, away.message)

    # --- the story

    def _outcome(self, build: Build, build_log: BuildLog, pulse: Pulse) -> VersionStatus:
        """Bring the version to its end: active, or failed with the reason in it and in the log."""
        try:
            version = self.catalog.version_by_id(build.version_id)
            if version.status is not VersionStatus.BUILDING:
                return self._already(build, version, build_log)
            began = time.monotonic()
            self._greet(build, version, build_log)
            layers = self._layers(version, build_log, pulse)
            self._check(version, layers, build_log, pulse)
            pulse.check()
            build_log.line(f"ready: {version.label} is active ({time.monotonic() - began:.1f} s)")
            pulse.keep_log()
            self.catalog.activate(version.id, layers)
            return VersionStatus.ACTIVE
        except VersionNotFound:
            raise TakenOver from None  # deleted meanwhile, and its build with it
        except (HandedBack, TakenOver, PartAway):
            raise
        except HearthError as error:
            return self._fail(build.version_id, error.message, build_log, pulse)
        except Exception as error:
            log.exception("building %s", build.version_id)
            told = f"a fault in the builder: {type(error).__name__}: {error}"
            return self._fail(build.version_id, told, build_log, pulse)

    def _greet(self, build: Build, version: Version, build_log: BuildLog) -> None:
        if build.attempts > BUILD_ATTEMPTS_MAX:
            raise BuildFailed(f"the builder died {BUILD_ATTEMPTS_MAX} times in the middle of it")
        build_log.line(f"building {version.label} for {version.config.runtime}")
        if build.attempts > 1:
            build_log.line(f"attempt {build.attempts}: the builder died in the middle of the last")

    def _layers(self, version: Version, build_log: BuildLog, pulse: Pulse) -> tuple[str, ...]:
        """The digests that, laid over one another, make the version's code."""
        if version.layers:
            build_log.line("the code is unchanged: nothing to install")
            return version.layers
        runtime = registry.find(version.config.runtime)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with scratch_dir(self.folder) as work:
            self.store.fetch(object_key(version.function_id, version.archive_digest), work / "code")
            facts = unpack(work / "code", work / "tree")
            build_log.line(f"code: {facts.entries} entries, {facts.unpacked_bytes:,} bytes")
            pulse.check()
            job = Job(version, runtime, work / "tree", work, build_log, pulse)
            dependencies = self.installer.layer(job)
        return (version.archive_digest, *([dependencies] if dependencies else []))

    def _check(
        self, version: Version, layers: tuple[str, ...], build_log: BuildLog, pulse: Pulse
    ) -> None:
        """Have the node's gateway boot the version once. Waits for a gateway that is away."""
        build_log.line(f"loading {version.config.handler}")
        deadline = time.monotonic() + self.settings.build_timeout_s
        pause_s, told = _FIRST_PAUSE_S, ""
        while True:
            pulse.check()
            call = CheckCall(self.settings.internal_socket)
            try:
                with pulse.interrupting(call.interrupt):
                    refused = call.ask(version.id, layers)
                break
            except (GatewayAway, NotNow) as why:
                pulse.check()
                if time.monotonic() > deadline:
                    raise _too_late(why, self.settings.build_timeout_s) from why
                if str(why) != told:
                    told = str(why)
                    build_log.line(f"waiting for the gateway: {told}")
            pulse.wait(pause_s)
            pause_s = min(2 * pause_s, BUILD_WAIT_S)
        if refused is not None:
            for line in refused.details:
                build_log.line(line)
            raise BuildFailed(refused.line)

    # --- its beginning and its end

    def _claim(self, version_id: str) -> Build | None:
        """Ours from here on; None when there is nothing to do, or somebody does it."""
        stale_before = datetime.now(UTC) - timedelta(seconds=BUILD_STALE_S)
        with suppress(VersionNotFound):
            now = self.catalog.build(version_id)
            if now.builder and is_dead(now.builder, me=self.name):
                stale_before = datetime.now(UTC) + timedelta(seconds=1)
            return self.catalog.claim_build(version_id, self.name, stale_before=stale_before)
        return None

    def _already(self, build: Build, version: Version, build_log: BuildLog) -> VersionStatus:
        """The last builder died between the version's end and the build's own."""
        for line in build.log.splitlines():
            build_log.line(line)
        build_log.line(f"{version.label} is {version.status.value}")
        return version.status

    def _fail(
        self, version_id: str, message: str, build_log: BuildLog, pulse: Pulse
    ) -> VersionStatus:
        line = " ".join(message.split())[:_ERROR_LENGTH_MAX]
        build_log.line(f"failed: {line}")
        pulse.keep_log()
        try:
            self.catalog.fail(version_id, line)
        except VersionNotFound:
            raise TakenOver from None
        except (Conflict, VersionNotActive):  # somebody else had activated it: that stands
            return VersionStatus.ACTIVE
        return VersionStatus.FAILED

    def _finish(self, version_id: str, build_log: BuildLog, status: VersionStatus) -> None:
        ended = {
            VersionStatus.ACTIVE: BuildStatus.SUCCEEDED,
            VersionStatus.FAILED: BuildStatus.FAILED,
        }
        try:
            version = self.catalog.version_by_id(version_id)
            self.catalog.finish_build(version_id, self.name, ended[status], build_log.text())
        except VersionNotFound:
            return
        log.info("%s is %s", version.label, status.value)
        self.notices.publish("catalog")
        self.notices.publish(
            "version",
            version_id=version_id,
            function_id=version.function_id,
            status=status.value,
            error=version.error,
        )

    def _hand_back(self, version_id: str, build_log: BuildLog, why: str) -> None:
        """Queued again, and not counted as an attempt. The sweep rings the bell for it; if even
        this cannot be written now, it counts as a builder's death."""
        log.info("%s is handed back: %s", version_id, why)
        build_log.line(f"to be tried again: {why}")
        try:
            self.catalog.heartbeat(version_id, self.name, build_log.text())
            self.catalog.release_build(version_id, self.name)
        except HearthError as error:
            log.warning("%s could not be handed back: %s", version_id, error.message)


def _too_late(why: Exception, waited_s: float) -> HearthError:
    if isinstance(why, NotNow):
        return BuildFailed(f"this node could not load the function for {waited_s:g} s: {why}")
    return PartAway("gateway", str(why))
