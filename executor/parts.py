"""What one sandbox holds of the host: given back, each once, when it is closed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from core.errors import SandboxBroken
from executor.cgroup import SandboxCgroup
from executor.first_process import FirstProcess, tell_gone
from executor.meter import GroupMeter
from executor.sandbox import Sandbox


@dataclass(eq=False, slots=True)
class Parts:
    """Of one sandbox, filled in as they come to be."""

    sandbox: Sandbox
    uid: int
    cgroup: SandboxCgroup
    making: asyncio.Future[None] | None = None  # while Podman makes the container
    meter: GroupMeter | None = None
    first: FirstProcess | None = None  # once it has connected
    conmon: int = -1  # pidfd of its parent, which ends once the container is removed
    code: str = ""
    closing: asyncio.Task[None] | None = None
    is_gone_told: bool = False

    def group(self) -> None:
        """Make its control group, which the meter reads."""
        self.cgroup.make()
        self.sandbox.meter = self.meter = GroupMeter(self.cgroup)

    def adopt(self, pid: int) -> None:
        """Hold on to the process that connected, once it is sure that it is the sandbox's."""
        pidfd = os.pidfd_open(pid)
        try:
            # The number may have passed to another process before it was held: its group tells.
            is_ours = f"{self.cgroup.path}/" in Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            is_ours = False
        if not is_ours:
            os.close(pidfd)
            raise SandboxBroken("a sandbox ended as it connected")
        self.first = FirstProcess(pidfd)
        # Awake it waits for its turn: it does not push aside the gateway, which has just woken it.
        os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        if Path(f"/proc/{parent}/comm").read_text().strip() == "conmon":
            self.conmon = os.pidfd_open(int(parent))

    @property
    def is_closing(self) -> bool:
        """Whether nothing may be done with it any more."""
        return self.closing is not None

    def kill(self) -> None:
        """End its processes. Frozen ones run no instruction of theirs before they end."""
        if self.first is not None:
            self.first.kill()  # with it the kernel kills all others of its namespace
        self.cgroup.thaw()

    def tell_gone(self) -> None:
        """Once, that no process of it is left, or that nobody waits for that any more."""
        if not self.is_gone_told:
            self.is_gone_told = True
            tell_gone(self.sandbox)

    def give_back(self) -> None:
        """Close every descriptor."""
        self.cgroup.close()
        if self.meter is not None:
            self.meter.close()
        if self.first is not None:
            self.first.close()
        if self.conmon >= 0:
            os.close(self.conmon)
            self.conmon = -1
