"""The books of a soak: each request that was sent, and the one thing that came of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.soak.functions import Kind

WRONG_SHOWN_MAX = 20
# What a function that is asked for this must come to; whatever else is asked is answered.
ENDS = {
    "crash": "function_crashed",
    "raise": "function_error",
    "eat": "function_out_of_memory",
    "sleep": "function_timeout",
}
PRESSED = {429: "concurrency_reached", 503: "node_full"}  # too many at once, said honestly
HUNG_UP = "hung up"


@dataclass(frozen=True, slots=True)
class Request:
    """What was sent."""

    kind: Kind
    asked: dict[str, Any]
    version_min: int  # that was active when it was sent

    @property
    def id(self) -> str:
        """Its X-Request-Id."""
        return str(self.asked["id"])


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `is_whole`: to the end that its head promised."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool
    waited_s: float


class Wrong(Exception):
    """An answer that cannot be explained."""


def judge(request: Request, answer: Answer) -> str:
    """What kind of answer it is. Wrong when the request cannot have had it."""
    _require(answer.headers.get("x-request-id") == request.id, "the answer to another request")
    _require(len(answer.headers.get("x-hearth-invocation-id", "")) == 36, "no invocation id")
    if answer.status in (200, 201):
        return _judge_said(request, answer)
    _require(answer.is_whole, "an error cut short")
    error = json.loads(answer.body)["error"]
    _require(error["request_id"] == request.id, "an error of another request")
    code = str(error["code"])
    if answer.status in PRESSED:
        _require(code == PRESSED[answer.status], "refused for no good reason")
        _require(int(answer.headers["retry-after"]) >= 1, "no Retry-After")
        return f"{answer.status} {code}"
    _require(int(answer.headers["x-hearth-version"]) >= request.version_min, "an old version")
    if answer.status == 504:
        _require(code == "function_timeout", "what has timed out?")
        # The loop's timers count from when its turn began: a little early.
        early = answer.waited_s < 0.8 * request.kind.time_s
        _require(not early, "told so before its time was over")
        return "504 function_timeout"
    _require(answer.status == 502, "an answer that nobody asked for")
    _require(_asked_for(request) == code, "a failure that nobody asked for")
    _require(code != "function_error" or error["message"] == request.id, "another's error")
    return f"502 {code}"


def _asked_for(request: Request) -> str | None:
    asked = request.asked
    if asked.get("fails_at") == 0 and request.kind.is_node:
        return "function_error"  # Node's head waits a tick for a first write: then it is no stream
    return ENDS.get(asked["do"])


def _judge_said(request: Request, answer: Answer) -> str:
    asked, version = request.asked, int(answer.headers["x-hearth-version"])
    _require(version >= request.version_min, "an old version")
    if request.kind.is_streaming:
        return _judge_stream(request, answer, version)
    _require(answer.status == 200 and answer.is_whole, "an answer cut short")
    _require(asked["do"] not in ENDS, "an answer that cannot be")
    expected = {"id": request.id, "v": version, "d": version}
    match asked["do"]:
        case "count":
            expected["seen"] = [request.id]
        case "lump":
            expected["lump"] = request.id * asked["times"]
        case "wait":
            expected["warned"] = True
    _require(json.loads(answer.body) == expected, "not what was to be said")
    return "200"


def _judge_stream(request: Request, answer: Answer, version: int) -> str:
    asked = request.asked
    _require(answer.status == 201, "not the function's status")
    _require(answer.headers["x-deploy"] == str(version), "other code than the version's")
    fails = 0 <= asked["fails_at"] < asked["pieces"]
    pieces = asked["fails_at"] if fails else asked["pieces"]
    text = "".join(f"{request.id} {n} {'x' * asked['size']}\n" for n in range(pieces))
    same = answer.body == text.encode()
    # A stream of Node's that is destroyed drops what it had no room for yet.
    same = same or (fails and request.kind.is_node and text.encode().startswith(answer.body))
    _require(same, "not what was to be streamed")
    _require(answer.is_whole is not fails, "cut short, or not")
    return "201 broken off" if fails else "201 whole"


def _require(truth: bool, otherwise: str) -> None:
    if not truth:
        raise Wrong(otherwise)


@dataclass(eq=False, slots=True)
class Books:
    """Counts by function, and whatever is wrong."""

    sent: Counter[str] = field(default_factory=Counter)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def end(self, request: Request, kind: str) -> None:
        """A request has come to this."""
        self.ended[request.kind.name, kind] += 1

    def blame(self, request: Request, problem: str) -> None:
        """A request has come to something that cannot be explained."""
        self.end(request, "unexplained")
        if len(self.wrong) < WRONG_SHOWN_MAX:
            self.wrong.append(f"{request.kind.name} {request.asked}: {problem}")

    def check(self) -> list[str]:
        """What does not add up, when no request is under way."""
        by_function: Counter[str] = Counter()
        for (name, _), count in self.ended.items():
            by_function[name] += count
        odd = [
            f"{name}: {self.sent[name]} sent, {by_function[name]} ended"
            for name in self.sent | by_function
            if self.sent[name] != by_function[name]
        ]
        return [*self.wrong, *odd]

    def kinds(self) -> Counter[str]:
        """Over all functions."""
        found: Counter[str] = Counter()
        for (_, kind), count in self.ended.items():
            found[kind] += count
        return found

    def table(self) -> str:
        """One row for each function, one column for each kind of end."""
        kinds = sorted(self.kinds())
        rows = [["function", "sent", *(kind.replace("function_", "") for kind in kinds)]]
        for name in sorted(self.sent):
            cells = [str(self.ended[name, kind] or "") for kind in kinds]
            rows.append([name, str(self.sent[name]), *cells])
        totals = self.kinds()
        rows.append(["total", str(sum(self.sent.values())), *(str(totals[k]) for k in kinds)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
        return "\n".join(lines)
