"""What makes sandboxes. The comments on this interface are its contract."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from core.model import Version
from executor.sandbox import Sandbox
from runtimes.registry import Runtime


class Driver(Protocol):
    """Two implementations: Podman for real, child processes for unit tests.

    Entering clears what an earlier life of this node left behind; leaving closes every sandbox
    that is still open, also when leaving is cancelled.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def boot(self, runtime: Runtime, network: str) -> Sandbox:
        """A stem: connected, HELLO said, no code. SandboxBroken, or PartAway("podman")."""
        ...

    async def bind(self, sandbox: Sandbox, version: Version, code: str) -> None:
        """Make the directory `code` visible in it as /var/task, read-only, and set the version's
        limits. Does not speak to the shim. SandboxBroken when the sandbox is gone."""
        ...

    def limit(self, sandbox: Sandbox, memory_mb: int) -> None:
        """Bound the memory of all of a host's seats together. SandboxBroken when it is gone."""
        ...

    def show(self, host: Sandbox, code: str, name: str) -> None:
        """Make the directory `code` visible in a host as /var/task/`name`, read-only, until
        `hide`; its `folder`/task/`name` is an empty directory. SandboxBroken when it is gone."""
        ...

    def hide(self, host: Sandbox, code: str, name: str) -> None:
        """The reverse of `show`. Never raises."""
        ...

    def freeze(self, sandbox: Sandbox) -> bool:
        """Stop every process in it until `thaw`. Written directly; returns before the last of them
        has stopped. False where that cannot be done: then they run on."""
        ...

    def thaw(self, sandbox: Sandbox) -> None:
        """The reverse of `freeze`. Never raises: a sandbox that is gone says so by itself."""
        ...

    def interrupt(self, sandbox: Sandbox) -> None:
        """SIGTERM to its shim. Never raises."""
        ...

    def retire(self, sandbox: Sandbox, grace_s: float) -> None:
        """End it gently: thaw it, SIGTERM to its shim, and once that has ended, at the latest
        after `grace_s`, `close`. Any number of times, in any state; never raises."""
        ...

    def close(self, sandbox: Sandbox) -> None:
        """End it: hang up, kill every process in it (frozen ones too), then, behind the caller's
        back, give back its mounts, ids and directories. Any number of times, in any state; never
        raises. `sandbox.on_gone` is called once, when no process of it is left, or when all
        patience has ended."""
        ...

    async def ping(self) -> None:
        """PartAway when no new sandbox could be made now."""
        ...
