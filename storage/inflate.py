"""Gzip as a stream of bounded steps: checksums verified, members counted, nothing kept."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, BinaryIO

from core.errors import ArchiveInvalid
from core.limits import ARCHIVE_GZIP_MEMBERS_MAX
from storage.entries import Budget

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PACKED_CHUNK_BYTES = 64 * 1024
_GZIP_WBITS = 31


class GzipStream(io.RawIOBase):
    """The unpacked bytes of a gzip file of one or more members. Counted in the budget.
    ArchiveInvalid when it is broken.

    The standard library's reads header fields byte by byte and starts members without end.
    """

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        self._file = file
        self._budget = budget
        self._member = zlib.decompressobj(_GZIP_WBITS)
        self._members = 1
        self._left = b""  # packed bytes that the last step did not need

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill at most the buffer; 0 at the end of the last member."""
        view = memoryview(buffer)
        while True:
            if self._member.eof and not self._start_member():
                return 0
            packed = self._next_packed()
            try:
                data = self._member.decompress(packed, len(view))
            except zlib.error as error:
                raise ArchiveInvalid(f"the gzip stream is corrupt: {error}") from None
            self._left = self._member.unconsumed_tail or self._member.unused_data
            if data:
                self._budget.spend(len(data))
                view[: len(data)] = data
                return len(data)
            if not packed and not self._member.eof:
                raise ArchiveInvalid("the gzip stream is cut short")

    def _next_packed(self) -> bytes:
        data, self._left = self._left, b""
        return data or self._file.read(_PACKED_CHUNK_BYTES)

    def _start_member(self) -> bool:
        """Go on to the next member, past zero padding. False when the file ends here."""
        while packed := self._next_packed():
            if packed := packed.lstrip(b"\0"):
                self._members += 1
                if self._members > ARCHIVE_GZIP_MEMBERS_MAX:
                    raise ArchiveInvalid("the gzip stream has too many members")
                self._member = zlib.decompressobj(_GZIP_WBITS)
                self._left = packed
                return True
        return False
