"""The object store as everything else sees it: bytes under a key that ends in their SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from core.errors import DigestMismatch, NameInvalid
from core.limits import OBJECT_KEY_BYTES_MAX, STORE_CHUNK_BYTES
from core.settings import Settings, SettingsInvalid
from storage.scratch import room, scratch_file

PART = "object store"
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_KEY = re.compile(rf"({_SEGMENT}/){{1,8}}[0-9a-f]{{64}}", re.ASCII)
_PREFIX = re.compile(rf"({_SEGMENT}/){{0,8}}({_SEGMENT})?", re.ASCII)


class ObjectStore(Protocol):
    """Keeps objects for ever, content-addressed. Thread-safe; every call may block.

    Any call raises PartAway while the store does not answer, and works again when it does;
    NameInvalid for a key that `object_key` would not make.
    """

    def put(self, key: str, path: Path) -> None:
        """Store the file's bytes, durable when this returns; nothing to do if they are there.
        DigestMismatch when they are not the key's, DiskFull."""
        ...

    def fetch(self, key: str, to: Path) -> None:
        """Write the object to `to`, whole and verified or not at all.
        ObjectMissing, DigestMismatch, DiskFull."""
        ...

    def copy(self, key: str, to: str) -> None:
        """Have an object under a second key of the same digest; cheap, and nobody reads its bytes.
        Nothing to do if it is there. ObjectMissing, DiskFull."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object, if there is one."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys of all objects that begin with `prefix`, in no particular order."""
        ...

    def ping(self) -> None:
        """PartAway, saying what to do, unless objects can be stored and fetched."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def object_key(function_id: str, digest: str) -> str:
    """Where a function keeps an archive or layer."""
    key = f"functions/{function_id}/{digest}"
    check_key(key)
    return key


def open_store(settings: Settings) -> ObjectStore:
    """The store that the settings name: S3 when a bucket is given, else a directory."""
    if settings.s3_bucket:
        from storage.s3 import S3Store  # boto3 costs 25 MB: only those who use it pay

        return S3Store(settings)
    if settings.s3_endpoint:
        raise SettingsInvalid("HEARTH_S3_ENDPOINT is set without HEARTH_S3_BUCKET: set both")
    from storage.directory import DirectoryStore

    return DirectoryStore(settings.data_dir / "objects")


def check_key(key: str) -> str:
    """The digest that a key ends in. NameInvalid for whatever `object_key` would not make."""
    if not is_key(key):
        raise NameInvalid(f"{key[:80]!r} is not the key of an object")
    return key[-64:]


def check_copy(key: str, to: str) -> None:
    """NameInvalid unless both are keys and mean the same bytes."""
    if check_key(key) != check_key(to):
        raise NameInvalid(f"{to[-80:]!r} is not a key of the same bytes")


def is_key(text: str) -> bool:
    """Whether this is an object's key, and not something else that lies in the store."""
    return len(text) <= OBJECT_KEY_BYTES_MAX and _KEY.fullmatch(text) is not None


def check_prefix(prefix: str) -> None:
    """NameInvalid unless keys can begin like this."""
    if len(prefix) > OBJECT_KEY_BYTES_MAX or not _PREFIX.fullmatch(prefix):
        raise NameInvalid(f"{prefix[:80]!r} is not the beginning of an object's key")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_verified(key: str, chunks: Iterable[bytes], fd: int) -> None:
    """Write chunks to a descriptor. DigestMismatch unless they are what `key` says."""
    sha256 = hashlib.sha256()
    for data in chunks:
        sha256.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    if sha256.hexdigest() != check_key(key):
        raise DigestMismatch(f"the bytes of {key} are not those that were put there", key=key)


def place_verified(key: str, chunks: Iterable[bytes], to: Path) -> None:
    """Let `to` appear with the whole, verified content, or not at all."""
    with room(str(to.parent)), scratch_file(to.parent) as (fd, path):
        write_verified(key, chunks, fd)
        path.rename(to)


def chunks_of(file: BinaryIO) -> Iterator[bytes]:
    """What is left of an open file, piece by piece."""
    while data := file.read(STORE_CHUNK_BYTES):
        yield data
