"""Puts a test's code where a sandbox sees it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write(sources: Mapping[str, str | bytes], task: Path) -> None:
    """Put code where a sandbox sees it, also one that has started: it looks at INIT."""
    for name, source in sources.items():
        path = task / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.encode() if isinstance(source, str) else source)
    for path in task.rglob("*"):
        open_to_readers(path)


def open_to_readers(path: Path) -> None:
    """Whoever the sandbox's user is: it reads all, and runs what is a program."""
    is_program = path.is_dir() or path.read_bytes()[:4].startswith((b"#!", b"\x7fELF"))
    path.chmod(0o755 if is_program else 0o644)
