"""Makes archives, the same bytes for the same input: a tree as a tar, a file as tar.gz."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from core.errors import ArchiveInvalid
from core.limits import STORE_CHUNK_BYTES
from storage.entries import LAYER_LIMITS, Budget, clean_path, clean_target, refuse
from storage.scratch import room
from storage.tree import MTIME_S, Shape

_BLOCK = 512
_END = bytes(2 * _BLOCK)
_GZIP_WBITS = 31


def wrap_single(name: str, data: bytes, to: Path) -> None:
    """Write a tar.gz holding one file called `name` in its root to `to`, a new file. DiskFull."""
    path = clean_path(name.encode())
    if "/" in path or not path:
        refuse(name, "a single file goes into the archive's root")
    gzip = zlib.compressobj(6, zlib.DEFLATED, _GZIP_WBITS)
    with _new_file(to) as file:
        file.write(gzip.compress(_header(path, len(data), 0o644)))
        file.write(gzip.compress(data))
        file.write(gzip.compress(bytes(-len(data) % _BLOCK) + _END))
        file.write(gzip.flush())


def pack_tree(root: Path, to: Path) -> str:
    """Write a tar of everything below `root` to `to`, a new file; its SHA-256 in hex.

    Follows no link out of or inside the tree, and keeps to the rules that `unpack` checks, so that
    what is packed can be unpacked: ArchiveInvalid, ArchiveTooLarge, DiskFull. Only names, content,
    execute bits and links count; `to` is gone after an error."""
    with _new_file(to) as file:
        packer = _Packer(_Hashing(file))
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            packer.add_directory(descriptor, "")
        finally:
            os.close(descriptor)
        return packer.finish()


@contextlib.contextmanager
def _new_file(to: Path) -> Iterator[BinaryIO]:
    """A file that stays only if the block ends well."""
    with room(str(to.parent)):
        try:
            with to.open("xb") as file:
                yield file
        except FileExistsError:
            raise
        except BaseException:
            to.unlink(missing_ok=True)
            raise


class _Out(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _Hashing:
    """Writes on, and remembers the digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self._sha256.update(data)
        self._file.write(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


class _Packer:
    """Walks a tree that somebody else made, in the order of its names' bytes."""

    def __init__(self, out: _Hashing) -> None:
        self._out = out
        self._shape = Shape()
        self._budget = Budget(LAYER_LIMITS, packed_bytes=LAYER_LIMITS.unpacked_bytes_max)

    def add_directory(self, descriptor: int, above: str) -> None:
        """Everything in an open directory whose path is `above`."""
        for raw in sorted(self._names(descriptor)):
            path = clean_path(above.encode() + b"/" + raw if above else raw)
            status = os.stat(raw, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._shape.enter(path, path)
                self._out.write(_header(path + "/", 0, 0o755, tarfile.DIRTYPE))
                self._descend(descriptor, raw, path)
            elif stat.S_ISLNK(status.st_mode):
                target = os.readlink(raw, dir_fd=descriptor)
                self._shape.nodes[path] = clean_target(path, target)
                self._out.write(_header(path, 0, 0o777, tarfile.SYMTYPE, target.decode()))
            elif stat.S_ISREG(status.st_mode):
                self._shape.nodes[path] = self._add_file(descriptor, raw, path)
            else:
                refuse(path, "devices, named pipes and sockets are not allowed")

    def finish(self) -> str:
        """End the tar; its digest."""
        self._shape.check_links()
        self._out.write(_END)
        return self._out.hexdigest()

    def _names(self, descriptor: int) -> Iterator[bytes]:
        with os.scandir(descriptor) as found:
            for entry in found:
                self._budget.count_entry()
                yield os.fsencode(entry.name)

    def _descend(self, descriptor: int, raw: bytes, path: str) -> None:
        inner = _open(raw, descriptor, path, os.O_DIRECTORY)
        try:
            self.add_directory(inner, path)
        finally:
            os.close(inner)

    def _add_file(self, descriptor: int, raw: bytes, path: str) -> int:
        # Non-blocking: should the file have become a pipe since, opening must not wait.
        fd = _open(raw, descriptor, path, os.O_NONBLOCK)
        with os.fdopen(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                refuse(path, "changed while it was packed")
            size = status.st_size
            self._budget.spend(size)
            mode = 0o755 if status.st_mode & 0o100 else 0o644
            self._out.write(_header(path, size, mode))
            for data in _exactly(file, size, path):
                self._out.write(data)
        self._out.write(bytes(-size % _BLOCK))
        return size


def _exactly(file: BinaryIO, size: int, path: str) -> Iterator[bytes]:
    while size:
        data = file.read(min(size, STORE_CHUNK_BYTES))
        if not data:
            refuse(path, "changed while it was packed")
        size -= len(data)
        yield data


def _open(raw: bytes, descriptor: int, path: str, flag: int) -> int:
    try:
        return os.open(raw, os.O_RDONLY | os.O_NOFOLLOW | flag, dir_fd=descriptor)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.ENXIO):
            raise ArchiveInvalid(f"archive entry {path!r}: changed while it was packed") from error
        raise


def _header(
    path: str, size: int, mode: int, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> bytes:
    """Header blocks that depend on nothing but the arguments; pax where ustar has no room."""
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.type, info.linkname, info.mtime = size, mode, kind, link, MTIME_S
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
