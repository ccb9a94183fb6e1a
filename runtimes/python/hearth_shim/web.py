"""HTTP as a web application meets it: a request, and the ways that its response can go."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote, urlencode

from .answers import Answer, answer_of, check_head, failure, refusal
from .requests import TEXT_TYPE, unescape
from .responses import HEADER_NAME, HEADER_VALUE
from .streaming import Channel
from .values import Invalid, describe_value, loads
from .wire import END, ERROR, RESULT

PATH_SAFE = "/:@!$&'()*+,;=~"  # beside letters, digits and _.-

Headers = list[tuple[str, str]]


class Misuse(Exception):
    """The application does not keep to its interface."""


class NotAnHttpEvent(Exception):
    """An event for a web application that describes no request."""

    kind = "NotAnHttpEvent"


class Request:
    """What was asked, with the path as it was sent."""

    form = ""  # of the event that it came in; "" for one that came over HTTP

    def __init__(self, http: dict[str, Any], body: bytes) -> None:
        self.method: str = http["method"]
        self.root: str = http.get("root", "")  # what stands before the path, for the client
        self.path: str = http["path"]
        self.query: str = http["query"]
        self.headers: Headers = http["headers"]  # names in lower case
        self.source_ip: str = http["source_ip"]
        self.version: str = http["protocol"].partition("/")[2]
        self.host: str = http["host"]
        self.body = body

    @property
    def decoded_path(self) -> str:
        """The path without percent signs; what is not UTF-8 is U+FFFD."""
        return unescape(self.path)

    @property
    def scheme(self) -> str:
        """What the client spoke to the platform."""
        for name, value in self.headers:
            if name == "x-forwarded-proto":
                return "https" if value == "https" else "http"
        return "http"

    @property
    def server(self) -> tuple[str, int]:
        """Host and port that the client asked for."""
        host, colon, port = self.host.rpartition(":")
        if colon and port.isascii() and port.isdigit() and (":" not in host or host[-1:] == "]"):
            return host, int(port)
        return self.host, 443 if self.scheme == "https" else 80


def parse_request(head: dict[str, Any], body: memoryview, name: str) -> Request:
    """The request of a CALL, of either kind. Raises for an event that describes none."""
    if head["kind"] == "http":
        return Request(head["http"], bytes(body))
    event = loads(str(body, "utf-8")) if body else {}
    try:
        request = from_event(event)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotAnHttpEvent(f"the event is not a whole HTTP event: {error!r}") from None
    if request is not None:
        return request
    raise NotAnHttpEvent(
        f"{name} is a web application: call it over HTTP at /function/{name}/, or with an HTTP "
        "event of API Gateway (payload format 2.0 or 1.0) or of a load balancer"
    )


def from_event(event: Any) -> Request | None:
    """The request that an event is; None when it is of another kind."""
    if not isinstance(event, dict):
        return None
    context = event.get("requestContext") or {}
    if event.get("version") == "2.0" and "http" in context:
        return from_event_2(event, context["http"])
    if "httpMethod" in event and "path" in event:
        return from_event_1(event, context)
    return None


def from_event_2(event: dict[str, Any], asked: dict[str, Any]) -> Request:
    """A request in AWS's payload format 2.0."""
    headers = [(str(n).lower(), str(v)) for n, v in (event.get("headers") or {}).items()]
    cookies = event.get("cookies") or []
    if cookies and not any(name == "cookie" for name, _ in headers):
        headers.append(("cookie", "; ".join(map(str, cookies))))
    http = {
        "method": str(asked["method"]),
        "path": quote(str(event.get("rawPath") or "/"), safe=PATH_SAFE),
        "query": str(event.get("rawQueryString") or ""),
        "source_ip": str(asked.get("sourceIp", "")),
    }
    return request_of(event, http, headers, "2.0")


def from_event_1(event: dict[str, Any], context: dict[str, Any]) -> Request:
    """A request in the format before that, which load balancers use too."""
    several = event.get("multiValueHeaders") or {
        name: [value] for name, value in (event.get("headers") or {}).items()
    }
    headers = [(str(n).lower(), str(v)) for n, values in several.items() for v in values]
    query = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters") or {}
    http = {
        "method": event["httpMethod"],
        "path": quote(event["path"], safe=PATH_SAFE),
        # A load balancer leaves the names and values of a query as they were sent.
        "query": urlencode(query, doseq=True)
        if "elb" not in context
        else "&".join(f"{n}={v}" for n, vs in query.items() for v in ([vs], vs)[type(vs) is list]),
        "source_ip": str((context.get("identity") or {}).get("sourceIp", "")),
    }
    return request_of(event, http, headers, "1.0")


def request_of(event: dict[str, Any], http: dict[str, Any], headers: Headers, form: str) -> Request:
    """The rest, which both formats share."""
    body = event.get("body") or ""
    if not HEADER_NAME.fullmatch(http["method"]) or not http["path"].startswith("/"):
        raise ValueError("no method and path")
    raw = base64.b64decode(body) if event.get("isBase64Encoded") else str(body).encode()
    host = next((value for name, value in headers if name == "host"), "localhost")
    whole = {"headers": headers, "protocol": "HTTP/1.1", "host": host}
    request = Request(http | whole, raw)
    request.form = form
    return request


# --- out ---


def head_of(status: Any, headers: list[tuple[Any, Any]]) -> dict[str, Any]:
    """The head of a response; Misuse says what is wrong. Names and values are text or bytes."""
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise Misuse(f"status {describe_value(status)} is not a number from 200 to 599")
    pairs = []
    for name, value in headers:
        name, value = plain_text(name).lower(), plain_text(value)
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            raise Misuse(f"header {name[:100]!r}: {value[:100]!r} cannot be sent")
        pairs.append((name, value))
    head = {"status": int(status), "headers": pairs}
    check_head(head)
    return head


def plain_text(part: Any) -> str:
    """Part of a header as text. Its bytes, which text stands for as Latin-1, are what is sent."""
    if isinstance(part, str) and part.isascii():
        return part
    try:
        raw = part.encode("latin-1") if isinstance(part, str) else bytes(part)
    except UnicodeEncodeError:
        raise Misuse(f"header {part[:100]!r} has characters that HTTP cannot carry") from None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def body_of(data: Any) -> bytes:
    """A piece of a response's body; Misuse when it is none."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise Misuse(f"a body's piece is {describe_value(data)}, not bytes")


class Sink:
    """Where one response goes: whole into a RESULT if it comes so, else in CHUNKs."""

    def __init__(self, channel: Channel, body_bytes_max: int) -> None:
        self.channel = channel
        self.body_bytes_max = body_bytes_max
        self.head: dict[str, Any] | None = None
        self.length = -1  # of the body, as the head says
        self.whole: bytes | None = None  # the body, while it may be all there is
        self.is_complete = False

    @property
    def has_left(self) -> bool:
        """Whether the client has been told the status."""
        return self.channel.has_begun

    def open(self, head: dict[str, Any]) -> None:
        """What the response begins with."""
        self.head = head
        self.length = -1
        for name, value in head["headers"]:
            if name == "content-length" and value.isascii() and value.isdigit():
                self.length = int(value[:20])

    def begin(self) -> None:
        """Let the head leave now, though the body has not begun."""
        channel = self.channel
        if self.head is not None and self.whole is None:
            channel.begin(self.head)

    async def write(self, piece: bytes, *, is_last: bool) -> None:
        """Send a piece as soon as there is credit. One that is all there is waits for the end."""
        assert self.head is not None
        begun = self.channel.has_begun
        is_first = not begun and self.whole is None and len(piece) <= self.body_bytes_max
        if is_first and (is_last or len(piece) == self.length):
            self.whole = piece
            self.is_complete = is_last
            return
        if self.whole is not None and piece:
            piece, self.whole = self.whole + piece, None
        if self.whole is None and (piece or not begun):
            await self.channel.put({} if begun else self.head, piece)
        self.is_complete = is_last

    def answer(self) -> Answer:
        """The last frame of a response that is complete."""
        if self.channel.has_begun or self.head is None:
            return END, {}, b""
        return RESULT, self.head, self.whole or b""

    def failed(self, problem: dict[str, Any]) -> Answer:
        """The last frame of one that is not."""
        return self.channel.end_of(problem)


class Collected(Sink):
    """A response to an event: an object of status, headers and body, as AWS has it."""

    def __init__(self, channel: Channel, body_bytes_max: int, form: str) -> None:
        super().__init__(channel, body_bytes_max)
        self.form = form
        self.body = bytearray()

    @property
    def has_left(self) -> bool:
        """Nothing leaves before the end."""
        return bool(self.body)

    def begin(self) -> None:
        """Nothing leaves before the end."""

    async def write(self, piece: bytes, *, is_last: bool) -> None:
        """Keep a piece."""
        if len(self.body) + len(piece) > self.body_bytes_max:
            message = f"the response has more than {self.body_bytes_max} bytes"
            raise Invalid(message, "Function.ResponseSizeTooLarge")
        self.body += piece
        self.is_complete = is_last

    def answer(self) -> Answer:
        """The whole as the result of an event."""
        assert self.head is not None
        pairs: Headers = self.head["headers"]
        several: dict[str, list[str]] = {}
        for name, value in pairs:
            several.setdefault(name, []).append(value)
        result: dict[str, Any] = {"statusCode": self.head["status"]}
        if self.form == "2.0":
            result["cookies"] = several.pop("set-cookie", [])
            result["headers"] = {name: ",".join(values) for name, values in several.items()}
        else:
            result["headers"] = {name: values[-1] for name, values in several.items()}
            result["multiValueHeaders"] = several
        result["body"], result["isBase64Encoded"] = event_body(bytes(self.body), several)
        return answer_of("event", result, self.body_bytes_max)

    def failed(self, problem: dict[str, Any]) -> Answer:
        """The last frame of one that is not complete."""
        return ERROR, problem, b""


def event_body(body: bytes, headers: dict[str, list[str]]) -> tuple[str, bool]:
    """The body as text where its type says text and its bytes agree, else as base64."""
    kind = headers.get("content-type", [""])[0].partition(";")[0].strip().lower()
    if not body or (TEXT_TYPE.match(kind) and "content-encoding" not in headers):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode("ascii"), True


def sink_of(request: Request, channel: Channel, body_bytes_max: int) -> Sink:
    """Where the response to a request goes."""
    if request.form:
        return Collected(channel, body_bytes_max, request.form)
    return Sink(channel, body_bytes_max)


def problem_of(error: BaseException) -> dict[str, Any]:
    """The head that says how an application failed."""
    if isinstance(error, Misuse):
        return failure("function_response_invalid", error, "Runtime.ApplicationInvalid")
    if isinstance(error, Invalid):
        return refusal(error)
    return failure("function_error", error)
