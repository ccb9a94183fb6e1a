"""A builder's name: which node, and which process on it, so that others can tell that it died."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def builder_name(node: str) -> str:
    """This process's name; a new one for each start, also when the process starts itself anew."""
    return f"{node}:{os.getpid()}:{_started(os.getpid())}:{secrets.token_hex(3)}"


def is_dead(builder: str, *, me: str) -> bool:
    """Whether a builder is known to be gone. False for other nodes' builders: who can say?"""
    node, _, process = builder.rpartition(":")[0].partition(":")
    if builder == me or not process or not me.startswith(f"{node}:"):
        return False
    pid, _, started = process.partition(":")
    return not pid.isdigit() or int(pid) == os.getpid() or _started(int(pid)) != started


def _started(pid: int) -> str:
    """When a process began, in the kernel's own count; a process id alone is used again."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone"
    return text.rpartition(")")[2].split()[19]
