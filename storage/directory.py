"""The object store in a directory: one file for each object, atomic and durable."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from core.errors import ObjectMissing, PartAway
from core.limits import STORE_CHUNK_BYTES
from storage.scratch import NO_LINKS, remove, room, scratch_dir, scratch_file, sweep, sync_directory
from storage.store import (
    PART,
    check_copy,
    check_key,
    check_prefix,
    chunks_of,
    digest_of,
    is_key,
    place_verified,
    write_verified,
)

_SCRATCH = ".scratch"  # no key begins with a dot
_MOVES_MAX = 100


class DirectoryStore:
    """Objects below `root`, which is made now or never: a directory that is missing later is a
    disk that went away, and an empty one in its place would look like every object lost."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._scratch = root / _SCRATCH
        with self._away(), room(str(root)):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._scratch.mkdir(mode=0o700, exist_ok=True)
            sweep(self._scratch)

    def put(self, key: str, path: Path) -> None:
        """See ObjectStore. An object that is there but damaged is replaced."""
        digest = check_key(key)
        to = self._root / key
        with path.open("rb", buffering=0) as source, self._away(), room(str(self._root)):
            if to.exists() and digest_of(to) == digest:
                sync_directory(to.parent)  # whoever put it may have died before that
                return
            with scratch_file(self._scratch) as (fd, scratch):
                write_verified(key, chunks_of(source), fd)
                os.fsync(fd)
                self._move(scratch, to)

    def fetch(self, key: str, to: Path) -> None:
        """See ObjectStore."""
        check_key(key)
        with self._away():
            try:
                content = (self._root / key).open("rb", buffering=0)
            except FileNotFoundError:
                self._check_root()
                raise ObjectMissing(f"no object {key}", key=key) from None
        with content:
            place_verified(key, self._read(content), to)

    def copy(self, key: str, to: str) -> None:
        """See ObjectStore. A second name of one file: an object is replaced, never written to."""
        check_copy(key, to)
        with self._away(), room(str(self._root)):
            if (self._root / to).exists():
                return
            with scratch_dir(self._scratch) as scratch:
                try:
                    os.link(self._root / key, scratch / "name")
                except FileNotFoundError:
                    self._check_root()
                    raise ObjectMissing(f"no object {key}", key=key) from None
                except OSError as error:
                    if error.errno not in NO_LINKS:
                        raise
                    self.fetch(key, scratch / "name")
                    self.put(to, scratch / "name")
                    return
                self._move(scratch / "name", self._root / to)

    def exists(self, key: str) -> bool:
        """See ObjectStore."""
        check_key(key)
        with self._away():
            self._check_root()
            return (self._root / key).is_file()

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        check_key(key)
        with self._away():
            self._check_root()
            remove(self._root / key)
            with contextlib.suppress(OSError):  # other objects are there, or another put
                (self._root / key).parent.rmdir()

    def keys(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        check_prefix(prefix)
        with self._away():
            self._check_root()
            above = prefix.rpartition("/")[0]
            for directory, _, names in os.walk(self._root / above):
                place = os.path.relpath(directory, self._root)
                found = (f"{place}/{name}" for name in names)
                yield from (key for key in found if key.startswith(prefix) and is_key(key))

    def ping(self) -> None:
        """See ObjectStore."""
        with self._away():
            self._check_root()
            if not os.access(self._scratch, os.W_OK):
                raise PartAway(PART, f"{self._root} cannot be written to: mend its permissions")

    def close(self) -> None:
        """Nothing is held."""

    def _move(self, scratch: Path, to: Path) -> None:
        """Rename durably. A delete may take the directory away in between: then once more."""
        for _ in range(_MOVES_MAX):
            new = not to.parent.is_dir()
            # FileExistsError too: mkdir found it there, and it was gone when it looked again.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                scratch.rename(to)
                sync_directory(to.parent)
                for directory in to.parent.parents if new else ():
                    sync_directory(directory)
                    if directory == self._root:
                        break
                return
            self._check_root()
        raise PartAway(PART, f"{to.parent} is no directory, or removed as often as it is made")

    def _read(self, content: BinaryIO) -> Iterator[bytes]:
        while True:
            with self._away():
                data = content.read(STORE_CHUNK_BYTES)
            if not data:
                return
            yield data

    def _check_root(self) -> None:
        if not self._scratch.is_dir():
            raise PartAway(PART, f"{self._root} is gone: is its disk mounted?")

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """Turn what the system says of a disk in trouble into PartAway."""
        try:
            yield
        except OSError as error:
            self._check_root()
            raise PartAway(PART, f"{self._root}: {error.strerror}") from error
