"""The Python shim: Hearth's process inside a sandbox. runtimes/PROTOCOL.md is its contract.

One file, standard library only: the image starts it as `python3 -I -B shim.py`. From the top: boot,
the loop that answers frames, loading a function, running it, HTTP in, HTTP out, the wire.
"""

from __future__ import annotations

import _thread
import asyncio
import base64
import binascii
import gc
import importlib
import importlib.util
import io
import json
import logging
import os
import re
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

PROTOCOL = 1
INIT, CALL, CANCEL = 1, 2, 3
HELLO, READY, INIT_ERROR, RESULT, ERROR = 16, 17, 18, 19, 20
HEADER = struct.Struct(">IBII")  # length, type, call, head_length
OVERHEAD_BYTES = 9  # of the header, counted by length
HEAD_BYTES_MAX = 128 * 1024
HEADER_CHARS_FINE = 4 * 1024  # fewer cannot exceed a head, whatever JSON makes of them
BUFFER_BYTES = 64 * 1024
MESSAGE_CHARS_MAX = 16 * 1024
TRACE_FRAMES_MAX = 60
TRACE_LINES_MAX = 200
FOUND_MAX = 100
KEPT_ENV = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE")

Handler = Callable[[Any, Any], Any]
Answer = tuple[int, dict[str, Any], bytes]  # type, head, body of a frame


class Invalid(Exception):
    """What the handler returned is not JSON, or is not a response."""

    def __init__(self, message: str, kind: str = "Runtime.MarshalError") -> None:
        super().__init__(message)
        self.kind = kind


def main() -> None:
    """Connect, become a stem, become a function, answer until the connection ends."""
    wire = Wire(connect(os.environ.get("HEARTH_SOCKET", "/run/hearth/shim.sock")))
    task = os.environ.get("HEARTH_TASK", "/var/task")
    prepare_process(wire)
    runtime = f"python{sys.version_info.major}.{sys.version_info.minor}"
    wire.send(HELLO, 0, {"protocol": PROTOCOL, "runtime": runtime})
    kind, call, config, _ = wire.receive()
    if kind != INIT or call != 0:
        broken(f"frame of type {kind} where INIT belongs")
    wire.body_bytes_max = int(config["payload_bytes_max"])
    wire.forget()
    (kind, head, _), function = load(config, task)
    del config
    flush()
    wire.send(kind, 0, head)
    serve(wire, function)


def connect(path: str) -> socket.socket:
    """The connection to the executor, whose first byte brings our descriptors 1 and 2."""
    spare = os.open(os.devnull, os.O_RDWR)
    while spare < 2:  # started with a closed 0, 1 or 2: the wire must not take its number
        spare = os.dup(spare)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if spare > 2:
        os.close(spare)
    sock.connect(path)
    first, descriptors, _, _ = socket.recv_fds(sock, 1, 2)
    if first != b"H" or len(descriptors) != 2:
        broken("the executor did not hand over two descriptors")
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return sock


def prepare_process(wire: Wire) -> None:
    """Streams, logging and signals as functions expect them."""
    sys.stdout = sys.__stdout__ = output(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = output(2)  # type: ignore[misc]
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)
    # Handlers of ours rather than SIG_IGN: an ignored signal would be inherited by subprocesses.
    # As process 1 of its container the default action of SIGTERM would be to ignore it.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    # A forked child keeps no copy of the wire, or the executor would never see it end.
    os.register_at_fork(after_in_child=wire.close)
    _thread.start_new_thread(exit_at_hangup, (wire.sock.fileno(),))
    gc.collect()
    gc.freeze()


def output(descriptor: int) -> io.TextIOWrapper:
    """A stream that writes each line before the next statement: last words survive os._exit."""
    return open(
        descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


class StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """The root logger's handler: writes to whatever sys.stderr is at that moment."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


def exit_at_hangup(descriptor: int) -> None:
    """A thread that sleeps until the executor is gone: a busy handler does not outlive it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    while not poll.poll():
        pass
    os._exit(0)


def serve(wire: Wire, function: Function | None) -> NoReturn:
    """Answer every call with exactly one frame. Ends with the process."""
    while True:
        kind, call, head, body = wire.receive()
        if kind == CANCEL:
            continue  # one call at a time: it is over by the time its CANCEL is read
        if kind != CALL or function is None:
            broken(f"frame of type {kind} where CALL belongs")
        try:
            event = parse_event(head, body, function.context.function_name)
        except Exception as error:  # not JSON, too deep, too large: never the end of the sandbox
            problem = failure("function_error", error, "Runtime.UnmarshalError")
            answer: Answer = (ERROR, problem, b"")
        else:
            body.release()
            wire.shrink()
            answer = function.run(head, event)
            del event
        flush()
        wire.send(answer[0], call, *answer[1:])
        del answer


def flush() -> None:
    """Push out what Python still buffers of the function's output."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - contextlib.suppress costs more than the flush, on every call
            stream.flush()
        except BaseException:  # noqa: S110 - the function closed it, or put its own object there
            pass


# --- loading -------------------------------------------------------------------------------------


class HandlerNotFound(Exception):
    """No such module, or no such callable in it. `found` names what there is."""

    def __init__(self, message: str, found: list[str]) -> None:
        super().__init__(message)
        self.found = found[:FOUND_MAX]


def load(config: dict[str, Any], task: str) -> tuple[Answer, Function | None]:
    """Become the function that INIT describes: environment, search path, import, handler."""
    apply_environment(config, task)
    try:
        os.chdir(task)
        asked = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
        sys.path[:0] = [task, *asked, os.path.join(task, ".hearth/site-packages")]
        handler = find_handler(config["handler"], task)
        return (READY, {}, b""), Function(handler, config)
    except BaseException as error:  # importing user code may raise anything, SystemExit too
        problem = failure("", error)
        del problem["code"]
        if isinstance(error, HandlerNotFound):
            problem |= {"trace": [], "found": error.found}
        return (INIT_ERROR, problem, b""), None


def apply_environment(config: dict[str, Any], task: str) -> None:
    """The function's environment replaces the one this process was started with."""
    kept = {name: os.environ[name] for name in KEPT_ENV if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    os.environ.update(config.pop("env"))
    os.environ.update(
        LAMBDA_TASK_ROOT=task,
        _HANDLER=config["handler"],
        AWS_LAMBDA_FUNCTION_NAME=config["function"],
        AWS_LAMBDA_FUNCTION_VERSION=str(config["version"]),
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE=str(config["memory_mb"]),
        HEARTH_NAMESPACE=config["namespace"],
        TMPDIR="/tmp",
        HOME="/tmp",
    )
    time.tzset()
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    if level in logging.getLevelNamesMapping():
        logging.getLogger().setLevel(level)


def find_handler(name: str, task: str) -> Handler:
    """The callable that `module.function` names; HandlerNotFound says what there is instead."""
    path, dot, attribute = name.rpartition(".")
    module_name = path.replace("/", ".")
    if not dot or not attribute or not all(module_name.split(".")):
        raise HandlerNotFound(f"handler {name!r} is not module.function", modules_in(task))
    try:
        module = import_from_task(module_name, task)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(missing + "."):
            raise  # the module is there; something that it imports is not
        raise HandlerNotFound(f"no module {module_name!r} in the code", modules_in(task)) from None
    handler: Handler | None = getattr(module, attribute, None)
    if not callable(handler):
        what = "is not callable" if hasattr(module, attribute) else "does not exist"
        raise HandlerNotFound(f"{attribute!r} in module {module_name!r} {what}", callables(module))
    return handler


def import_from_task(name: str, task: str) -> Any:
    """Import the function's module, also when the standard library already took its name."""
    top = name.partition(".")[0]
    file = os.path.join(task, *name.split(".")) + ".py"
    if top not in sys.modules or not os.path.exists(file):  # noqa: PTH110
        return importlib.import_module(name)
    # json.py, say: shim and libraries keep the real json, the function's file gets another name.
    spec = importlib.util.spec_from_file_location(f"task_{name.replace('.', '_')}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def modules_in(task: str) -> list[str]:
    """Names of the modules and packages in the root of the code."""
    found = set()
    for entry in os.scandir(task):
        if entry.name.endswith(".py") and entry.is_file():
            found.add(entry.name[:-3])
        elif entry.is_dir() and "__init__.py" in os.listdir(entry.path):  # noqa: PTH208
            found.add(entry.name)
    return sorted(found)


def callables(module: Any) -> list[str]:
    """Public callables of a module: its own, or all when it defines none."""
    names = [n for n, value in vars(module).items() if callable(value) and n[:1] != "_"]
    own = [n for n in names if getattr(vars(module)[n], "__module__", "") == module.__name__]
    return sorted(own or names)


# --- running -------------------------------------------------------------------------------------


class Context:
    """What AWS Lambda hands a handler beside the event. `deadline` is Unix time in milliseconds."""

    function_name: str
    function_version: str
    memory_limit_in_mb: str
    invoked_function_arn: str
    log_group_name: str
    log_stream_name: str
    client_context = None

    def __init__(self, head: dict[str, Any]) -> None:
        self.aws_request_id: str = head["id"]
        self.deadline: int = head["deadline_ms"]
        self.traceparent: str | None = head.get("trace")
        self.identity = Identity()

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the platform ends this call, never negative."""
        return max(0, int(self.deadline - time.time() * 1000))

    def log(self, message: object) -> None:
        """Write a message to the log as it is."""
        sys.stdout.write(str(message))


class Identity:
    """Always empty here: Hearth has no Cognito."""

    cognito_identity_id = None
    cognito_identity_pool_id = None


class Function:
    """The handler with what stays the same for all its calls."""

    def __init__(self, handler: Handler, config: dict[str, Any]) -> None:
        self.handler = handler
        self.result_bytes_max: int = config["payload_bytes_max"]
        self.loop: asyncio.AbstractEventLoop | None = None
        self.process = os.getpid()
        name, version = config["function"], str(config["version"])
        stream = time.strftime("%Y/%m/%d/", time.gmtime()) + f"[{version}]{os.urandom(16).hex()}"
        facts = {
            "function_name": name,
            "function_version": version,
            "memory_limit_in_mb": str(config["memory_mb"]),
            "invoked_function_arn": f"arn:aws:lambda:local:000000000000:function:{name}:{version}",
            "log_group_name": f"/aws/lambda/{name}",
            "log_stream_name": stream,
        }
        self.context: type[Context] = type("LambdaContext", (Context,), facts)

    def run(self, head: dict[str, Any], event: Any) -> Answer:
        """Call the handler and put what came back into one frame."""
        try:
            result = self.handler(event, self.context(head))
            if hasattr(type(result), "__await__"):
                result = self.finish(result)
        except BaseException as error:  # SystemExit too: the sandbox stays usable
            if os.getpid() != self.process:
                raise  # in a forked child: it ends as any Python program does
            return ERROR, failure("function_error", error), b""
        try:
            answer = http_response(result) if head["kind"] == "http" else ({}, encode(result))
            self.check_size(*answer)
            return RESULT, *answer
        except BaseException as error:  # the result's own methods may raise anything
            kind = error.kind if isinstance(error, Invalid) else "Runtime.MarshalError"
            problem = failure("function_response_invalid", error, kind)
            return ERROR, problem | {"trace": []}, b""

    def finish(self, awaitable: Any) -> Any:
        """Run an async handler on the sandbox's one event loop."""
        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(awaitable)

    def check_size(self, head: dict[str, Any], body: bytes) -> None:
        """Refuse what the executor would have to answer by closing the sandbox."""
        if len(body) > self.result_bytes_max:
            message = f"the response has {len(body)} bytes; {self.result_bytes_max} are allowed"
            raise Invalid(message, "Function.ResponseSizeTooLarge")
        chars = sum(len(name) + len(value) for name, value in head.get("headers", ()))
        if chars > HEADER_CHARS_FINE and len(dumps(head).encode()) > HEAD_BYTES_MAX:
            raise Invalid("the response's headers are too large", "Function.ResponseSizeTooLarge")


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
loads = json.JSONDecoder(parse_constant=no_constant).decode


def encode(result: Any) -> bytes:
    """The JSON of what a handler returned; Invalid when there is none."""
    if hasattr(type(result), "__next__") or hasattr(type(result), "__anext__"):
        raise Invalid("the handler returned a generator: streaming is not supported")
    try:
        return dumps(result).encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can say it, UTF-8 cannot
        return json.dumps(result, allow_nan=False, default=plain).encode()
    except Exception as error:  # the result's own methods may raise anything
        raise Invalid(f"the result is not JSON: {describe(error)}") from None


def describe(error: BaseException) -> str:
    """str(error), which user code may have made to raise or to return megabytes."""
    try:
        text = str(error)
        return text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + "…"
    except BaseException:
        return "<its __str__ raised>"


def failure(code: str, error: BaseException, kind: str = "") -> dict[str, Any]:
    """The head of an ERROR: type, message and the user's part of the traceback, bounded."""
    message = describe(error)
    if isinstance(error, SystemExit):
        kind, message = kind or "Runtime.ExitError", f"the handler called sys.exit({message})"
    try:
        trace = user_trace(error)
    except BaseException:  # formatting runs user code (__str__, __notes__) and takes memory
        trace = []
    kind = kind or str(type(error).__name__)[:256]
    return {"code": code, "type": kind, "message": message, "trace": trace}


INTERNAL = (__file__, "<frozen importlib", importlib.__file__, os.path.dirname(asyncio.__file__))


def user_trace(error: BaseException) -> list[str]:
    """The lines of the traceback from the first frame that is the user's."""
    frame = error.__traceback__
    while frame and frame.tb_frame.f_code.co_filename.startswith(INTERNAL):
        frame = frame.tb_next
    formatted = traceback.TracebackException(
        type(error), error, frame, limit=-TRACE_FRAMES_MAX, compact=True
    )
    lines = "".join(formatted.format()).splitlines()
    if len(lines) > TRACE_LINES_MAX:
        lines[TRACE_LINES_MAX // 2 : -TRACE_LINES_MAX // 2] = ["…"]
    return [line[:1000] for line in lines]


# --- HTTP in -------------------------------------------------------------------------------------

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
    now = time.time()
    at = time.gmtime(now)
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


# --- HTTP out ------------------------------------------------------------------------------------

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
        try:
            return body.encode()
        except UnicodeEncodeError:  # half of a surrogate pair becomes U+FFFD
            return body.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    try:
        compact = body if body.isalnum() else "".join(body.split()).rstrip("=")
        return binascii.a2b_base64(compact + "=" * (-len(compact) % 4), strict_mode=True)
    except ValueError as error:
        raise Invalid(f"body is not base64: {error}") from None


def describe_value(value: Any) -> str:
    """A short, safe picture of a value for a message."""
    try:
        return repr(value)[:100] if isinstance(value, (str, int, float)) else type(value).__name__
    except BaseException:  # a subclass of str may have a __repr__ that raises
        return "<its __repr__ raised>"


# --- the wire ------------------------------------------------------------------------------------


class Wire:
    """Frames on one blocking socket, read into one buffer that grows for a large frame only."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.body_bytes_max = 0  # until INIT says how large bodies may be
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.start = self.end = 0  # of what was received and not yet taken

    def receive(self) -> tuple[int, int, dict[str, Any], memoryview]:
        """The next frame: type, call, head, body. The body is valid until the next receive."""
        self.fill(HEADER.size)
        length, kind, call, head_bytes = HEADER.unpack_from(self.buffer, self.start)
        body_bytes = length - OVERHEAD_BYTES - head_bytes
        if head_bytes > HEAD_BYTES_MAX or not 0 <= body_bytes <= self.body_bytes_max:
            broken(f"a frame of type {kind} with {head_bytes} + {body_bytes} bytes")
        self.fill(HEADER.size + head_bytes + body_bytes)
        middle = self.start + HEADER.size + head_bytes
        head = loads(str(self.view[middle - head_bytes : middle], "utf-8")) if head_bytes else {}
        self.start = middle + body_bytes
        return kind, call, head, self.view[middle : self.start]

    def fill(self, wanted: int) -> None:
        """Have `wanted` bytes in the buffer. Ends the process when the connection ends."""
        held = self.end - self.start
        if held >= wanted:
            return
        if held == 0:
            self.start = self.end = 0
        if self.start + wanted > len(self.buffer):
            bigger = bytearray(max(wanted, BUFFER_BYTES))
            bigger[:held] = self.view[self.start : self.end]
            self.use(bigger, held)
        while self.end - self.start < wanted:
            try:
                count = self.sock.recv_into(self.view[self.end :])
            except OSError:
                count = 0
            if not count:
                os._exit(0)
            self.end += count

    def use(self, buffer: bytearray, held: int) -> None:
        """Go on with another buffer whose first `held` bytes are received ones."""
        self.buffer, self.view = buffer, memoryview(buffer)
        self.start, self.end = 0, held

    def shrink(self) -> None:
        """Let go of a large frame's memory before the handler needs it."""
        if len(self.buffer) > BUFFER_BYTES and self.start == self.end:
            self.use(bytearray(BUFFER_BYTES), 0)

    def forget(self) -> None:
        """Overwrite what was received and taken: INIT brought secrets."""
        self.view[: self.start] = bytes(self.start)

    def send(self, kind: int, call: int, head: dict[str, Any], body: bytes = b"") -> None:
        """Send one frame, whole."""
        text = dumps(head).encode("utf-8", "replace") if head else b""
        if len(text) > HEAD_BYTES_MAX:
            text = smaller(head)
        header = HEADER.pack(OVERHEAD_BYTES + len(text) + len(body), kind, call, len(text))
        try:
            if len(body) < BUFFER_BYTES:
                self.sock.sendall(header + text + body)
            else:  # without a copy of the body
                self.sock.sendall(header + text)
                self.sock.sendall(body)
        except OSError:  # the executor is gone, or this is a forked child that came back here
            os._exit(0)

    def close(self) -> None:
        """Close this process's copy of the connection."""
        self.sock.close()


def smaller(head: dict[str, Any]) -> bytes:
    """The head of an ERROR cut down until it fits."""
    trace = [*head["trace"][:20], "…", *head["trace"][-20:]]
    head |= {"message": head["message"][:2048] + "…", "trace": [line[:200] for line in trace]}
    if "found" in head:
        head["found"] = [name[:100] for name in head["found"]]
    return dumps(head).encode("utf-8", "replace")


def broken(what: str) -> NoReturn:
    """The executor broke the protocol, or this shim did: end, saying why."""
    os.write(2, f"hearth: the wire broke: {what}\n".encode())
    os._exit(70)


if __name__ == "__main__":
    main()
