"""The HTTP client of the gateway: a method for each thing commands ask, errors as CliError."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import quote

from cli.connection import Connection
from cli.failures import CliError, ExitCode

if TYPE_CHECKING:
    import httpx

CONNECT_S = 5.0
ANSWER_S = 60.0  # calls that answer at once; invocations have a bound of their own
INVOKE_S = 960.0  # longer than the longest timeout_s and the wait for a seat
PAGE_ITEMS = 100
FUNCTION_CODES = ("function_",)  # error codes that are the function's fault begin with this
# … but these begin with it too and are the platform's answer to the caller
NOT_THE_FUNCTIONS = ("function_not_found", "function_exists", "function_disabled")


class Client:
    """Talks to one platform. Use it as a context manager."""

    def __init__(self, connection: Connection, transport: httpx.BaseTransport | None = None):
        import httpx

        self._connection = connection
        headers = {"User-Agent": "hearth-cli"}
        if connection.key:
            headers["Authorization"] = f"Bearer {connection.key}"
        self._http = httpx.Client(
            base_url=connection.url,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            transport=transport,
            # Reading the machine's certificates takes longer than most calls: only for https.
            verify=connection.url.startswith("https:"),
            # A proxy of the environment has no business between us and this machine.
            trust_env=not connection.is_loopback,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    # --- functions ---

    def functions(self) -> Iterator[dict[str, Any]]:
        """Every function the key may see."""
        return self._pages("/v1/functions")

    def function(self, name: str) -> dict[str, Any]:
        """One function; CliError when there is none."""
        return self._json("GET", f"/v1/functions/{quote(name)}")

    def delete_function(self, name: str) -> None:
        """Delete it with its versions and aliases."""
        self._send("DELETE", f"/v1/functions/{quote(name)}")

    def deploy(
        self,
        name: str,
        config: Mapping[str, Any],
        archive: IO[bytes],
        filename: str,
    ) -> dict[str, Any]:
        """Upload the next version; answers while it is still building."""
        files = {"archive": (filename, archive, "application/octet-stream")}
        form = {"config": json.dumps(config)}
        path = f"/v1/functions/{quote(name)}"
        return self._json("PUT", path, files=files, data=form, timeout=INVOKE_S)

    def versions(self, name: str) -> Iterator[dict[str, Any]]:
        """Its versions, newest first."""
        return self._pages(f"/v1/functions/{quote(name)}/versions")

    def version(self, name: str, number: int) -> dict[str, Any]:
        """One version."""
        return self._json("GET", f"/v1/functions/{quote(name)}/versions/{number}")

    def build_log(self, name: str, number: int) -> str:
        """What the build of a version wrote so far."""
        return self._send("GET", f"/v1/functions/{quote(name)}/versions/{number}/build-log").text

    def put_alias(self, name: str, alias: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Point an alias at a version."""
        path = f"/v1/functions/{quote(name)}/aliases/{quote(alias)}"
        return self._json("PUT", path, json=body)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias."""
        self._send("DELETE", f"/v1/functions/{quote(name)}/aliases/{quote(alias)}")

    def rollback(self, name: str, alias: str) -> dict[str, Any]:
        """Put an alias back on the version it had before."""
        path = f"/v1/functions/{quote(name)}/rollback"
        return self._json("POST", path, json={"alias": alias})

    def logs(self, name: str, *, tail: int, since: str = "") -> list[dict[str, Any]]:
        """The last log lines of a function, oldest first; none older than `since`."""
        query = {"tail": str(tail), **({"since": since} if since else {})}
        answer = self._send("GET", f"/v1/functions/{quote(name)}/logs", params=query)
        return [json.loads(line) for line in answer.text.splitlines() if line.strip()]

    # --- keys ---

    def keys(self) -> Iterator[dict[str, Any]]:
        """Every key, without the key itself."""
        return self._pages("/v1/keys")

    def add_key(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a key; the answer is the only time its text is shown."""
        return self._json("POST", "/v1/keys", json=body)

    def delete_key(self, key_id: str) -> None:
        """Take a key back."""
        self._send("DELETE", f"/v1/keys/{quote(key_id)}")

    # --- invocations ---

    def invoke(
        self, method: str, path: str, *, body: bytes | Path, headers: Mapping[str, str]
    ) -> httpx.Response:
        """Call a function; the answer whatever its status, CliError only when there is none."""
        if isinstance(body, bytes):
            return self._raw(method, path, content=body, headers=dict(headers), timeout=INVOKE_S)
        with body.open("rb") as file:
            # With a length, so that the platform refuses one that is too large before reading it.
            sized = {**headers, "Content-Length": str(body.stat().st_size)}
            return self._raw(method, path, content=file, headers=sized, timeout=INVOKE_S)

    # --- how ---

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        query: dict[str, Any] = {"limit": PAGE_ITEMS}
        while True:
            page = self._json("GET", path, params=query)
            yield from page["items"]
            if not page.get("next"):
                return
            query["cursor"] = page["next"]

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._send(method, path, **options)
        body: dict[str, Any] = answer.json()
        return body

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self._raw(method, path, **options)
        if answer.status_code >= 300:
            raise error_of(answer, self._connection)
        return answer

    def _raw(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._reaching(lambda: self._http.request(method, path, **options))

    def _reaching(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        import httpx

        url = self._connection.url
        try:
            return call()
        except httpx.ConnectError as problem:
            message = f"nothing answers at {url} ({problem})"
            hint = "is it running? try: hearth up"
            code = "unreachable"
        except httpx.TimeoutException:
            message, code = f"{url} did not answer in time", "timeout"
            hint = "the platform may be overloaded; hearth doctor looks at this machine"
        except (httpx.TransportError, httpx.InvalidURL) as problem:
            message = f"the connection to {url} broke: {problem or type(problem).__name__}"
            hint, code = "was the platform stopped meanwhile? try again", "connection_broke"
        raise CliError(message, exit_code=ExitCode.AWAY, hint=hint, code=code)


def error_of(answer: httpx.Response, connection: Connection) -> CliError:
    """The platform's error answer as the CliError to end with."""
    status = answer.status_code
    try:
        said = answer.json()["error"]
        details = {key: value for key, value in said.items() if key != "message"}
        message = str(said["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        details = {"code": "unexpected_answer"}
        message = f"{connection.url} answered {status} and said: {answer.text[:200]!r}"
    code = str(details.get("code", ""))
    if is_function_fault(code) and details.get("type"):
        message = f"{details['type']}: {message}"
    hint = _hint(status, code, connection, details)
    return CliError(message, exit_code=_exit_code(status, code), hint=hint, **details)


def _exit_code(status: int, code: str) -> ExitCode:
    if code == "build_failed" or is_function_fault(code):
        return ExitCode.FAILED
    if status == 501:  # this release does not have it: trying again does not help
        return ExitCode.REFUSED
    if status == 429 or status >= 500 or code == "unexpected_answer":
        return ExitCode.AWAY
    return ExitCode.REFUSED


def is_function_fault(code: str) -> bool:
    """Whether an error code says that the user's own code failed."""
    return code.startswith(FUNCTION_CODES) and code not in NOT_THE_FUNCTIONS


def _hint(status: int, code: str, connection: Connection, details: Mapping[str, Any]) -> str:
    if status == 401:
        return connection.key_hint or "the key was not accepted: check HEARTH_KEY"
    if status == 403:
        return "this key may not do that; hearth keys create makes another"
    if is_function_fault(code):
        return "hearth logs NAME shows what it printed before"
    if code == "function_not_found":
        return "hearth list shows what is there"
    if status in (429, 503):
        return "try again in a moment"
    if status == 500 and details.get("request_id"):
        return f"the gateway's log has more under {details['request_id']}"
    return ""
