"""Clients that are slow, leave, or come all at once, on a whole platform."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import httpx
import pytest

from core.limits import CLIENT_BODY_IDLE_S, CLIENT_HEAD_S
from tests.fixtures.api import (
    ECHO,
    HOLDS,
    connected,
    deploy,
    exists,
    head,
    held,
    invoke,
    logged,
    passing,
    put_code,
    read_all,
    refused,
    release,
    until,
    wake,
)
from tests.fixtures.platform import Platform

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

Stalled = dict[str, socket.socket]


@pytest.fixture(scope="module", autouse=True)
def stalled(platform: Platform) -> Iterator[Stalled]:
    """Clients that stopped in the middle of what they were saying when this module began, so that
    their time runs while the other tests do."""
    form = "content-type: multipart/form-data; boundary=x"
    part = b'--x\r\ncontent-disposition: form-data; name="archive"; filename="a"\r\n\r\nabc'
    starts = {
        "invocation": head(
            platform, "POST", "/v1/functions/stalled/invocations", "content-length: 9"
        ),
        "http": head(platform, "POST", "/function/stalled", "transfer-encoding: chunked")
        + b"1\r\n",
        "upload": head(platform, "PUT", "/v1/functions/half", form, "content-length: 999") + part,
        "head": b"GET /healthz HTTP/1.1\r\nhost:",
    }
    with platform.client() as client, ExitStack() as stack:
        deploy(client, "stalled")
        found = {name: stack.enter_context(connected(platform)) for name in starts}
        for name, start in starts.items():
            found[name].sendall(start)
        yield found
        client.delete("/v1/functions/stalled")


def texts(client: httpx.Client, name: str) -> list[str]:
    """What the function printed."""
    return [line["text"] for line in logged(client, name)]


def is_held(client: httpx.Client, name: str, times: int) -> bool:
    """Whether so many calls of HOLDS stay where they are."""
    return held(client, name) >= times


# --- leaving ---


def test_a_client_that_leaves_in_its_invocation_costs_nobody_anything(
    platform: Platform, client: httpx.Client
) -> None:
    deploy(client, "left", HOLDS, concurrency=4)
    body = b'"hold"'
    for number in range(3):
        with connected(platform) as sock:
            target = "/v1/functions/left/invocations"
            sock.sendall(head(platform, "POST", target, f"content-length: {len(body)}") + body)
            until(partial(is_held, client, "left", number + 1), "it never began")
    assert [invoke(client, "left").json() for _ in range(20)] == ["let go"] * 20

    def have_ended() -> bool:
        wake(platform.settings)
        return texts(client, "left").count("let go") >= 3

    until(have_ended, "the calls of who left were cut short")

    def enter(_: int) -> httpx.Response:
        """Between a call's last word and its end there is a moment."""
        while (answer := invoke(client, "left", "hold")).status_code == 429:
            pass
        return answer

    with ThreadPoolExecutor(4) as threads:  # every place of its concurrency is free
        calls = [threads.submit(enter, number) for number in range(4)]
        until(partial(is_held, client, "left", 3 + 4), "a place is lost")
        assert release(platform.settings, calls) == ["let go"] * 4
    assert [invoke(client, "left").json() for _ in range(20)] == ["let go"] * 20
    said = [line["text"] for line in logged(client, "left") if line["stream"] == "platform"]
    assert all(text.startswith("cold start") for text in said)


def test_a_client_that_leaves_in_the_middle_of_its_body_reaches_no_function(
    platform: Platform, client: httpx.Client
) -> None:
    code = "def handler(event, context):\n    print('called')\n    return 'answered'\n"
    deploy(client, "unsaid", code, concurrency=1)
    for target in ("/v1/functions/unsaid/invocations", "/function/unsaid"):
        with connected(platform) as sock:
            sock.sendall(head(platform, "POST", target, "content-length: 1000") + b'{"s": ')
    assert [invoke(client, "unsaid").json() for _ in range(20)] == ["answered"] * 20
    assert texts(client, "unsaid") == ["called"] * 20


def test_more_than_the_concurrency_is_refused_at_once_and_waits_for_nothing(
    platform: Platform, client: httpx.Client
) -> None:
    deploy(client, "narrow", HOLDS, concurrency=2)
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(invoke, client, "narrow", "hold") for _ in range(2)]
        until(lambda: held(client, "narrow") == 2, "they never began")
        refusal = invoke(client, "narrow", "more")
        error = refused(refusal, 429, "concurrency_reached")
        assert (error["concurrency"], refusal.headers["retry-after"]) == (2, "1")
        assert release(platform.settings, running) == ["let go"] * 2
    assert invoke(client, "narrow").json() == "let go"


# --- all at once ---


def at_once(count: int, what: Callable[[int], httpx.Response]) -> list[httpx.Response]:
    """The answers of so many threads that begin together."""
    gate = threading.Barrier(count)

    def begin(number: int) -> httpx.Response:
        gate.wait()
        return what(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


def test_many_deploys_of_one_name_while_others_call_it(
    platform: Platform, client: httpx.Client
) -> None:
    code = "def handler(event, context):\n    return [{}, context.function_version]\n"
    deploy(client, "busy", code.format(0), concurrency=64)
    stop = threading.Event()

    def call() -> list[httpx.Response]:
        answers = []
        with platform.client() as own:
            while not stop.is_set():
                answers.append(invoke(own, "busy"))
        return answers

    def redeploy(number: int) -> httpx.Response:
        with platform.client() as own:
            own.timeout = httpx.Timeout(300)
            return put_code(own, "busy", code.format(number + 1), concurrency=64)

    with ThreadPoolExecutor(8) as callers:
        calling = [callers.submit(call) for _ in range(8)]
        deployed = at_once(16, redeploy)
        stop.set()
        answers = [answer for caller in calling for answer in caller.result()]
    assert [answer.status_code for answer in deployed] == [200] * 16, [a.text for a in deployed]
    made = {answer.json()["version"]: number + 1 for number, answer in enumerate(deployed)}
    assert set(made) == set(range(2, 18))
    wrong = [answer.text for answer in answers if answer.status_code != 200]
    assert (wrong, len(answers) >= 8) == ([], True)
    made[1] = 0
    for answer in answers:  # each answer is of one version, and of the one that it names
        number, version = answer.json()
        assert (made[int(version)], answer.headers["x-hearth-version"]) == (number, version)
    assert client.get("/v1/functions/busy").json()["version"] == 17
    assert invoke(client, "busy").json() == [made[17], "17"]


def test_first_deploys_of_one_name_at_once_make_one_function(
    platform: Platform, client: httpx.Client
) -> None:
    def create(number: int) -> httpx.Response:
        with platform.client() as own:
            body = {"config": {"name": "first", "runtime": "python"}, "code": ECHO + "#" * number}
            return own.post("/v1/functions?wait=true", json=body)

    answers = at_once(6, create)
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [201] + [409] * 5, [answer.text for answer in answers]
    versions = client.get("/v1/functions/first/versions").json()["items"]
    assert [version["version"] for version in versions] == [1]


def test_deleting_while_others_deploy_and_call_ends_in_typed_answers(
    platform: Platform, client: httpx.Client
) -> None:
    deploy(client, "contested")

    def act(number: int) -> httpx.Response:
        with platform.client() as own:
            if number % 3 == 0:
                return own.delete("/v1/functions/contested")
            if number % 3 == 1:
                return put_code(own, "contested", ECHO)
            return invoke(own, "contested", 1)

    for answer in at_once(9, act):
        assert answer.status_code in (200, 201, 204, 404, 409), answer.text
        assert answer.status_code < 300 or answer.json()["error"]["request_id"]
    assert deploy(client, "contested")["status"] == "active"
    assert invoke(client, "contested", 1).json() == 1


# --- stalling: last, since their time has run meanwhile ---


@pytest.mark.parametrize("who", ["invocation", "http", "upload", "head"])
def test_a_client_that_stalls_is_answered_408(
    platform: Platform, client: httpx.Client, stalled: Stalled, who: str
) -> None:
    status, headers, body = read_all(stalled[who])
    assert (status, headers["connection"]) == (408, "close")
    error = json.loads(body)["error"]
    assert (error["code"], error["request_id"]) == ("request_timeout", headers["x-request-id"])
    assert not exists(client, "half")
    assert texts(client, "stalled") == []
    until(lambda: passing(platform.settings) == [], "half an upload stays")


def test_a_client_that_goes_on_slowly_is_served(platform: Platform, client: httpx.Client) -> None:
    assert CLIENT_BODY_IDLE_S > 5 < CLIENT_HEAD_S
    deploy(client, "patient")
    body = b'{"slow": true}'
    with connected(platform) as sock:
        lines = (f"content-length: {len(body)}", "connection: close")
        sock.sendall(head(platform, "POST", "/v1/functions/patient/invocations", *lines))
        for byte in body:
            sock.sendall(bytes([byte]))
            time.sleep(0.02)
        status, _, answer = read_all(sock)
    assert (status, json.loads(answer)) == (200, {"slow": True})
