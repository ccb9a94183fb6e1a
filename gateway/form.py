"""A multipart form with one file and one JSON field, read as it comes: nothing but the file's bytes
goes anywhere, and no part may be larger than its limit."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.errors import ArchiveTooLarge, PayloadTooLarge, RequestInvalid
from core.limits import CONFIG_BYTES_MAX

ARCHIVE, CONFIG = "archive", "config"
OVERHEAD_BYTES_MAX = CONFIG_BYTES_MAX + 64 * 1024  # of a form, beside its archive


class DeployForm:
    """Feed it the body, `take` the archive's bytes; `filename` and `config` stand at the end."""

    def __init__(self, content_type: str, archive_bytes_max: int) -> None:
        """RequestInvalid when the content type names no usable boundary."""
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise RequestInvalid("the multipart form names no boundary")
        self.filename: str | None = None  # None: no archive came
        self.config = bytearray()
        self._archive_bytes_max = archive_bytes_max
        self._seen: set[str] = set()
        self._part = ""
        self._field = self._value = b""
        self._disposition = b""
        self._chunks: list[bytes] = []
        self._archive_bytes = self._form_bytes = 0
        self._ended = False
        try:
            self._parser = MultipartParser(boundary, self._callbacks())  # type: ignore[arg-type]
        except FormParserError as error:
            raise RequestInvalid(f"the multipart form cannot be read: {error}") from None

    def feed(self, data: bytes) -> None:
        """The next piece of the body. RequestInvalid, ArchiveTooLarge, PayloadTooLarge."""
        self._form_bytes += len(data)
        if self._form_bytes > self._archive_bytes_max + OVERHEAD_BYTES_MAX:
            raise archive_too_large(self._archive_bytes_max)
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise RequestInvalid(f"the multipart form cannot be read: {error}") from None

    def take(self) -> list[bytes]:
        """The archive's bytes that came since the last time."""
        chunks, self._chunks = self._chunks, []
        return chunks

    def finish(self) -> None:
        """RequestInvalid when the form was cut short."""
        if not self._ended:
            raise RequestInvalid("the multipart form was cut short")

    def _callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._on_part_begin,
            "on_part_data": self._on_part_data,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._part, self._disposition = "", b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in (ARCHIVE, CONFIG):
            raise RequestInvalid(f"the form has a part {name[:64]!r}; it takes archive and config")
        if name in self._seen:
            raise RequestInvalid(f"the form has two parts {name!r}")
        self._seen.add(name)
        self._part = name
        if name == ARCHIVE:
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == CONFIG:
            self.config += data[start:end]
            if len(self.config) > CONFIG_BYTES_MAX:
                raise PayloadTooLarge(f"config is over {CONFIG_BYTES_MAX} bytes")
            return
        self._archive_bytes += end - start
        if self._archive_bytes > self._archive_bytes_max:
            raise archive_too_large(self._archive_bytes_max)
        self._chunks.append(data[start:end])

    def _on_end(self) -> None:
        self._ended = True


def archive_too_large(bytes_max: int) -> ArchiveTooLarge:
    """The error for an archive that is, or says it is, over the limit."""
    return ArchiveTooLarge(f"the archive is over {bytes_max} bytes", limit=bytes_max)
