"""The Podman driver: hardened containers, made through podman-py on the node's private socket.

Podman is asked to create and start; everything quicker than that (limits, mounts, killing) is
written directly. Measured: create 10 ms, start 65 ms, HELLO 16 ms after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import shutil
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from core.errors import FunctionOutOfMemory, HearthError, NodeDraining, PartAway, SandboxBroken
from core.limits import MIB
from core.model import Version
from core.settings import Settings
from executor import cgroup, cleanup, handshake, mounts
from executor.cgroup import Limits, SandboxCgroup
from executor.container import container_name, sandbox_spec
from executor.egress import Egress
from executor.host import Host
from executor.parts import Parts
from executor.patience import ended, to_the_end
from executor.podman_api import PodmanApi
from executor.sandbox import Sandbox
from runtimes.registry import Runtime

log = logging.getLogger("hearth.executor")

_TAKE_OVER_S = 30.0  # an earlier life of this node, or its guard, may still be clearing
_REMOVAL_S = 10.0  # conmon has Podman remove a container whose process ended
_REMOVALS_MAX = 3  # at its first try Podman may only learn that a container is not running
_REMOVAL_ROUNDS_MAX = 50
_REMOVAL_ROUND_S = 0.02
_AWAY_S = 1.0  # between two tries to reach Podman's service
_HOSTS = "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n"


class PodmanDriver:
    """See `executor.driver.Driver`. `release_code` is told when a code directory is let go."""

    def __init__(self, settings: Settings, release_code: Callable[[str], None]) -> None:
        self._settings = settings
        self._release_code = release_code
        self._tag = cleanup.node_tag(settings.run_dir)
        self._sandboxes_dir = settings.run_dir / cleanup.SANDBOXES
        self._hosts = self._sandboxes_dir / "hosts"
        self._egress = Egress(settings, self._sandboxes_dir)
        self._codes = mounts.CodeMounts(settings.run_dir / cleanup.CODE)
        self._parts: dict[str, Parts] = {}
        self._uids_used: set[int] = set()
        self._next_uid = 0
        self._podman = PodmanApi(settings.podman_socket)
        self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self._held = -1  # the run directory's lock
        self._is_closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            await to_the_end(asyncio.ensure_future(asyncio.to_thread(self._occupy)))
        except BaseException:
            await to_the_end(asyncio.ensure_future(asyncio.to_thread(self._vacate)))
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await to_the_end(asyncio.ensure_future(self._close_all()))

    def _occupy(self) -> None:
        run_dir = self._settings.run_dir
        try:
            self._held = cleanup.hold(run_dir, _TAKE_OVER_S)
            for line in cleanup.clear(run_dir):
                log.warning("left by an earlier life of this node: %s", line)
            self._sandboxes_dir.mkdir(mode=0o700)
            (run_dir / cleanup.CODE).mkdir(mode=0o700)
            mounts.make_shared(self._sandboxes_dir)
            cgroup.keep_frozen(cleanup.group_of(run_dir))
            self._hosts.write_text(_HOSTS)
            self._hosts.chmod(0o644)
        except cleanup.RunDirTaken as error:
            raise SandboxBroken(str(error)) from error
        except OSError as error:
            raise SandboxBroken(f"no sandboxes can be made in {run_dir}: {error}") from error

    def _vacate(self) -> None:
        self._podman.close()
        if self._held >= 0:
            for line in cleanup.clear(self._settings.run_dir):
                log.debug("clearing: %s", line)
            cleanup.release(self._held)

    async def _close_all(self) -> None:
        self._is_closed.set()
        for parts in list(self._parts.values()):
            self.close(parts.sandbox)
        await asyncio.gather(*[p.closing for p in self._parts.values() if p.closing])
        await asyncio.to_thread(self._vacate)

    # --- boot ------------------------------------------------------------------------------------

    async def boot(self, runtime: Runtime, network: str) -> Sandbox:
        """A stem. See the interface."""
        if self._is_closed.is_set():
            raise NodeDraining("this node is shutting down", retry_after_s=1)
        sandbox_id = secrets.token_hex(6)
        kind = Host if runtime.is_hosted else Sandbox
        sandbox = kind(
            id=sandbox_id,
            runtime=runtime,
            network=network,
            folder=self._sandboxes_dir / sandbox_id,
            body_bytes_max=self._settings.payload_bytes_max,
        )
        group = SandboxCgroup(f"{cleanup.group_of(self._settings.run_dir)}/{sandbox_id}")
        parts = self._parts[sandbox_id] = Parts(sandbox, self._take_uid(), group)
        sandbox.why_died = lambda: _out_of_memory(sandbox, group)
        started = time.perf_counter()
        try:
            await self._boot(parts)
        except BaseException as error:
            self.close(sandbox)
            if isinstance(error, OSError):
                raise SandboxBroken(f"a sandbox could not be made: {error}") from error
            raise
        sandbox.timing.boot_ms = (time.perf_counter() - started) * 1000
        return sandbox

    async def _boot(self, parts: Parts) -> None:
        sandbox = parts.sandbox
        socket_dir = sandbox.folder / "socket"
        for folder in (sandbox.folder, socket_dir, sandbox.folder / "task"):
            folder.mkdir()
            folder.chmod(0o755)  # whatever the umask: the sandbox's uid looks into the last two
        parts.group()
        egress = None if sandbox.network == "none" else self._egress
        spec = sandbox_spec(
            runtime=sandbox.runtime,
            sandbox_id=sandbox.id,
            tag=self._tag,
            cgroup=parts.cgroup.path,
            uid=parts.uid,
            folder=sandbox.folder,
            hosts=self._hosts,
            nofile=self._nofile,
            bridge=egress.bridge if egress else None,
        )
        listener = handshake.listen(socket_dir)
        try:
            parts.making = asyncio.ensure_future(self._podman.run(spec, egress))
            await _carried(parts.making)
        except BaseException:
            listener.close()
            raise
        await handshake.introduce(sandbox, listener, socket_dir, parts.adopt)

    # --- bind ------------------------------------------------------------------------------------

    async def bind(self, sandbox: Sandbox, version: Version, code: str) -> None:
        """Code and limits. See the interface; takes about 0.2 ms."""
        parts = self._parts.get(sandbox.id)
        if parts is None or parts.is_closing:
            raise SandboxBroken("a sandbox ended before it was bound")
        try:
            parts.cgroup.limit(Limits(version.config.memory_mb * MIB, version.config.cpus))
            parts.cgroup.is_shared = version.config.per_sandbox > 1
            self._codes.show(code, sandbox.folder / "task")
        except OSError as error:
            raise SandboxBroken(f"a sandbox could not be bound: {error}") from error
        parts.code = code  # from here on, closing it releases the code

    def limit(self, sandbox: Sandbox, memory_mb: int) -> None:
        """See the interface. A host's processors are bounded by its functions' seats alone."""
        cpus = float(os.cpu_count() or 1)
        try:
            self._parts[sandbox.id].cgroup.limit(Limits(memory_mb * MIB, cpus))
        except (KeyError, OSError) as error:
            raise SandboxBroken(f"a sandbox could not be limited: {error}") from error

    def show(self, host: Sandbox, code: str, name: str) -> None:
        """See the interface."""
        try:
            self._codes.show(code, host.folder / "task" / name)
        except OSError as error:
            raise SandboxBroken(f"a sandbox could not be bound: {error}") from error

    def hide(self, host: Sandbox, code: str, name: str) -> None:
        """See the interface."""
        self._codes.hide(code, host.folder / "task" / name)

    # --- between calls ---------------------------------------------------------------------------

    def freeze(self, sandbox: Sandbox) -> bool:
        """See the interface. With the descriptor kept and another group frozen on this machine,
        which this driver sees to, freezing and thawing take 3.5 µs together; 200 else."""
        parts = self._parts.get(sandbox.id)
        return parts is not None and not parts.is_closing and parts.cgroup.freeze()

    def thaw(self, sandbox: Sandbox) -> None:
        """See the interface."""
        if parts := self._parts.get(sandbox.id):
            parts.cgroup.thaw()

    def interrupt(self, sandbox: Sandbox) -> None:
        """See the interface."""
        parts = self._parts.get(sandbox.id)
        if parts is not None and parts.first is not None:
            parts.first.interrupt()

    # --- the end ---------------------------------------------------------------------------------

    def retire(self, sandbox: Sandbox, grace_s: float) -> None:
        """See the interface."""
        parts = self._parts.get(sandbox.id)
        if parts is None or parts.is_closing or parts.first is None:
            self.close(sandbox)
            return
        parts.cgroup.thaw()
        parts.first.retire(sandbox, grace_s, self.close)

    def close(self, sandbox: Sandbox) -> None:
        """Kill at once; what takes longer goes on behind. See the interface."""
        sandbox.hang_up()
        parts = self._parts.get(sandbox.id)
        if parts is None or parts.is_closing:
            return
        parts.kill()
        parts.closing = asyncio.ensure_future(self._close(parts))

    async def _close(self, parts: Parts) -> None:
        is_gone = False
        try:
            if parts.making is not None:
                await asyncio.wait([parts.making])
            if parts.code:
                self._codes.hide(parts.code, parts.sandbox.folder / "task")
                self._release_code(parts.code)
            if parts.first is not None and await parts.first.ended(_REMOVAL_S):
                parts.tell_gone()
            is_gone = await self._remove(parts)
            await asyncio.to_thread(shutil.rmtree, parts.sandbox.folder, ignore_errors=True)
        except Exception:  # nobody waits for this but the driver's end, which clears what is left
            log.exception("%r could not be closed", parts.sandbox)
        parts.tell_gone()
        parts.give_back()
        if is_gone:
            self._uids_used.discard(parts.uid)
        else:  # an id is never given to a second sandbox while the first may live
            log.error("%r is not gone; its user id %d stays reserved", parts.sandbox, parts.uid)
        self._parts.pop(parts.sandbox.id, None)

    async def _remove(self, parts: Parts) -> bool:
        """See container and groups go, or make them; whether they did."""
        if parts.conmon < 0 or not await ended(parts.conmon, _REMOVAL_S):
            # Never met, or stuck: Podman may hold a container that nobody else would remove.
            await self._remove_container(container_name(self._tag, parts.sandbox.id))
        for _ in range(_REMOVAL_ROUNDS_MAX):
            if parts.cgroup.remove():
                return True
            cgroup.kill(parts.cgroup.path)
            await asyncio.sleep(_REMOVAL_ROUND_S)
        return False

    async def _remove_container(self, name: str) -> None:
        """Podman must be there to forget it: while it is away we wait, until the driver's end."""
        tries = 0
        while tries < _REMOVALS_MAX:
            try:
                await self._podman.remove(name)
                return
            except PartAway:
                if self._is_closed.is_set():
                    return  # the driver's end clears what is left
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_AWAY_S):
                        await self._is_closed.wait()
            except HearthError:
                tries += 1

    async def ping(self) -> None:
        """PartAway when Podman's service does not answer."""
        await self._podman.ping()

    def _take_uid(self) -> int:
        count = self._settings.uid_count
        if len(self._uids_used) >= count:
            raise SandboxBroken(f"all {count} user ids for sandboxes are in use")
        while True:
            uid = self._settings.uid_base + self._next_uid % count
            self._next_uid += 1
            if uid not in self._uids_used:
                self._uids_used.add(uid)
                return uid


async def _carried(work: asyncio.Future[None]) -> None:
    """Wait for a task of ours; to cancel the waiting is to cancel it, and to wait for its end."""
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        work.cancel()
        with contextlib.suppress(HearthError, asyncio.CancelledError):
            await to_the_end(work)
        raise


def _out_of_memory(sandbox: Sandbox, group: SandboxCgroup) -> HearthError | None:
    version = sandbox.version
    if version is None or not group.ran_out_of_memory():
        return None
    limit = version.config.memory_mb
    return FunctionOutOfMemory(
        f"the function needed more than its {limit} MB of memory", memory_mb=limit
    )
