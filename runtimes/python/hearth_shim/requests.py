"""What a handler gets: the event, or a request in AWS's payload format 2.0."""

from __future__ import annotations

import base64
import re
from time import gmtime, time
from typing import Any

from .values import loads

TEXT_TYPE = re.compile(
    r"text/|application/(json|xml|javascript|x-www-form-urlencoded)$|.*\+(json|xml)$"
)
ESCAPED = re.compile(rb"%([0-9a-fA-F]{2})")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_event(head: dict[str, Any], body: memoryview, function_name: str) -> Any:
    """What the handler gets. Raises when an event is not JSON, or nested beyond all use."""
    if head["kind"] == "http":
        return http_event(head, body, function_name)
    return loads(str(body, "utf-8")) if body else {}


def unread(error: Exception) -> str:
    """The type of the error that an event is which cannot be read: not JSON, or not a request."""
    return getattr(error, "kind", "Runtime.UnmarshalError")


def http_event(head: dict[str, Any], body: memoryview, function_name: str) -> dict[str, Any]:
    """A request in AWS's payload format 2.0."""
    http = head["http"]
    headers: dict[str, str] = {}
    for name, value in http["headers"]:
        glue = "; " if name == "cookie" else ","
        headers[name] = f"{headers[name]}{glue}{value}" if name in headers else value
    path = unescape(http["path"])
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": http["query"],
        "headers": headers,
        "requestContext": request_context(head, headers, path, function_name),
        "isBase64Encoded": False,
    }
    if "cookie" in headers:
        parts = (part.strip() for part in headers["cookie"].split(";"))
        event["cookies"] = [part for part in parts if part]
    if http["query"]:
        event["queryStringParameters"] = query_parameters(http["query"])
    if body:
        add_body(event, headers.get("content-type", ""), body)
    return event


def request_context(
    head: dict[str, Any], headers: dict[str, str], path: str, function_name: str
) -> dict[str, Any]:
    """Who asked for what, when."""
    http = head["http"]
    now = time()
    at = gmtime(now)
    day = f"{at.tm_mday:02}/{MONTHS[at.tm_mon - 1]}/{at.tm_year}"
    return {
        "accountId": "anonymous",
        "apiId": function_name,
        "domainName": http["host"],
        "domainPrefix": http["host"].partition(":")[0].partition(".")[0],
        "http": {
            "method": http["method"],
            "path": path,
            "protocol": http["protocol"],
            "sourceIp": http["source_ip"],
            "userAgent": headers.get("user-agent", ""),
        },
        "requestId": head["id"],
        "routeKey": "$default",
        "stage": "$default",
        "time": f"{day}:{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} +0000",
        "timeEpoch": int(now * 1000),
    }


def add_body(event: dict[str, Any], content_type: str, body: memoryview) -> None:
    """The body as text where its type says text and its bytes agree, else as base64."""
    if TEXT_TYPE.match(content_type.partition(";")[0].strip().lower()):
        try:
            event["body"] = str(body, "utf-8")
            return
        except UnicodeDecodeError:
            pass
    event["body"] = base64.b64encode(body).decode("ascii")
    event["isBase64Encoded"] = True


def query_parameters(query: str) -> dict[str, str]:
    """Decoded parameters; the values of a repeated one joined with commas."""
    found: dict[str, str] = {}
    for pair in query.split("&"):
        if pair:
            name, _, value = pair.replace("+", " ").partition("=")
            name, value = unescape(name), unescape(value)
            found[name] = f"{found[name]},{value}" if name in found else value
    return found


def unescape(text: str) -> str:
    """Percent-decoding that never fails: what is not UTF-8 becomes U+FFFD."""
    if "%" not in text:
        return text
    raw = ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode())
    return raw.decode("utf-8", "replace")
