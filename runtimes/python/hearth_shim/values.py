"""JSON as this platform speaks it, and words for what is not JSON."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

MESSAGE_CHARS_MAX = 16 * 1024


class Invalid(Exception):
    """What the handler returned is not JSON, or is not a response."""

    def __init__(self, message: str, kind: str = "Runtime.MarshalError") -> None:
        super().__init__(message)
        self.kind = kind


def plain(value: Any) -> Any:
    """What JSON lacks but AWS accepts: Decimal, as DynamoDB returns numbers."""
    decimal = sys.modules.get("decimal")
    if decimal and isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def no_constant(name: str) -> NoReturn:
    """Refuse what Python reads and writes although JSON lacks it."""
    raise ValueError(f"{name} is not JSON")


dumps = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain
).encode
dumps_ascii = json.JSONEncoder(allow_nan=False, default=plain).encode
loads = json.JSONDecoder(parse_constant=no_constant).decode


def encode(result: Any) -> bytes:
    """The JSON of what a handler returned; Invalid when there is none."""
    try:
        return dumps(result).encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can say it, UTF-8 cannot
        return dumps_ascii(result).encode()
    except Exception as error:  # the result's own methods may raise anything
        raise Invalid(f"the result is not JSON: {describe(error)}") from None


def encode_text(text: str) -> bytes:
    """Text as UTF-8; half of a surrogate pair becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def describe(error: BaseException) -> str:
    """str(error), which user code may have made to raise or to return megabytes."""
    try:
        text = str(error)
        return text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + "…"
    except BaseException:
        return "<its __str__ raised>"


def describe_value(value: Any) -> str:
    """A short, safe picture of a value for a message."""
    try:
        return repr(value)[:100] if isinstance(value, (str, int, float)) else type(value).__name__
    except BaseException:  # a subclass of str may have a __repr__ that raises
        return "<its __repr__ raised>"
