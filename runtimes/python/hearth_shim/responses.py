"""What HTTP makes of a result: status, headers and body, or what is wrong with it."""

from __future__ import annotations

import binascii
import re
from typing import Any

from .values import Invalid, describe_value, dumps, encode, encode_text

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


def http_response(result: Any) -> tuple[dict[str, Any], bytes]:
    """Head and body of the response that a result describes; Invalid says what is wrong."""
    if not isinstance(result, dict) or "statusCode" not in result:
        head = {"status": 200, "headers": [("content-type", "application/json")]}
        return head, encode(result)
    status = result["statusCode"]
    if isinstance(status, str) and status.isascii() and status.isdigit() and len(status) == 3:
        status = int(status)
    if isinstance(status, bool) or status not in range(100, 600):
        raise Invalid(f"statusCode {describe_value(status)} is not a number from 100 to 599")
    headers = response_headers(result.get("headers"), result.get("cookies"))
    if not any(name == "content-type" for name, _ in headers):
        headers.append(("content-type", "application/json"))
    return {"status": int(status), "headers": headers}, response_body(result)


def response_headers(headers: Any, cookies: Any) -> list[tuple[str, str]]:
    """Every header as a pair of lower-case name and value."""
    if not isinstance(headers or {}, dict):
        raise Invalid(f"headers is {describe_value(headers)}, not an object")
    if not isinstance(cookies or [], (list, tuple)):
        raise Invalid(f"cookies is {describe_value(cookies)}, not a list")
    pairs = []
    for name, given in (headers or {}).items():
        for value in given if isinstance(given, (list, tuple)) else (given,):
            pairs.append((str(name).lower(), header_text(name, value)))
    for cookie in cookies or ():
        if not isinstance(cookie, str):
            raise Invalid(f"a cookie is {describe_value(cookie)}, not a string")
        pairs.append(("set-cookie", header_text("set-cookie", cookie)))
    return pairs


def header_text(name: Any, value: Any) -> str:
    """A header's value as text; Invalid when name or value cannot be sent."""
    if isinstance(value, (bool, int, float)):
        value = dumps(value)
    if not isinstance(value, str):
        raise Invalid(f"header {describe_value(name)} is {describe_value(value)}, not a string")
    if not HEADER_NAME.fullmatch(str(name)) or not HEADER_VALUE.fullmatch(value):
        raise Invalid(f"header {describe_value(name)}: {describe_value(value)} cannot be sent")
    return value


def response_body(result: dict[str, Any]) -> bytes:
    """The raw bytes of a response's body."""
    body, encoded = result.get("body"), result.get("isBase64Encoded")
    if encoded not in (None, True, False):
        raise Invalid(f"isBase64Encoded is {describe_value(encoded)}, not true or false")
    if body is None:
        return b""
    if isinstance(body, (bytes, bytearray, memoryview)):
        raise Invalid("body is bytes: encode it as base64 text and set isBase64Encoded to true")
    if not isinstance(body, str):
        return encode(body)
    if not encoded:
        return encode_text(body)
    try:
        compact = body if body.isalnum() else "".join(body.split()).rstrip("=")
        return binascii.a2b_base64(compact + "=" * (-len(compact) % 4), strict_mode=True)
    except ValueError as error:
        raise Invalid(f"body is not base64: {error}") from None
