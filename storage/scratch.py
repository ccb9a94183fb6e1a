"""Temporary files and directories that know whether their maker lives, so leftovers can be swept.

A maker holds a lock on what it makes; the lock ends with the process. Whoever sweeps takes away
only what it can lock itself, so several processes may share a directory, at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from core.errors import DiskFull

_PREFIX = ".hearth-"
# Why a file gets no second name: it has too many, the system gives none, or it is another one.
NO_LINKS = frozenset({errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.EXDEV})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def room(where: str) -> Iterator[None]:
    """Turn the system's "no space left" inside the block into DiskFull that says where."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise DiskFull(
            f"no room left on the device that holds {where}: free some, then try again"
        ) from error


@contextlib.contextmanager
def scratch_file(parent: Path) -> Iterator[tuple[int, Path]]:
    """A new file of mode 0600 in `parent`: (descriptor, path). Gone afterwards unless renamed."""
    fd, path = _claim_file(parent)
    try:
        yield fd, path
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


@contextlib.contextmanager
def scratch_dir(parent: Path) -> Iterator[Path]:
    """A new directory of mode 0700 in `parent`, gone afterwards with all that is in it."""
    fd, path = _claim_dir(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def sweep(parent: Path) -> int:
    """Remove what makers that died left in `parent`; how many things that were."""
    swept = 0
    with os.scandir(parent) as found:
        entries = list(found)
    for entry in entries:
        if not entry.name.startswith(_PREFIX) or entry.is_symlink():
            continue
        try:
            fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(Path(entry.path))
            swept += 1
        except BlockingIOError:
            pass  # its maker is at work
        finally:
            os.close(fd)
    return swept


def remove(path: Path) -> None:
    """Remove a file or a whole tree; no error when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _claim_file(parent: Path) -> tuple[int, Path]:
    while True:
        path = parent / f"{_PREFIX}{secrets.token_hex(8)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        if _is_mine(fd, path):
            return fd, path


def _claim_dir(parent: Path) -> tuple[int, Path]:
    while True:
        path = parent / f"{_PREFIX}{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if _is_mine(fd, path):
                return fd, path


def _is_mine(fd: int, path: Path) -> bool:
    """Lock it. False, and closed, when a sweep came between the making and the lock."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        if os.path.samestat(path.stat(), os.fstat(fd)):
            return True
    except FileNotFoundError:
        pass
    os.close(fd)
    return False
