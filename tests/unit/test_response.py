"""What a sandbox says its response is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.errors import ResponseInvalid
from core.limits import RESPONSE_HEADERS_BYTES_MAX, RESPONSE_HEADERS_MAX
from executor.response import check_response


def headers_of(*headers: Any) -> list[tuple[str, str]]:
    return check_response({"status": 200, "headers": list(headers)})[1]


@pytest.mark.parametrize("status", [200, 204, 301, 304, 404, 418, 500, 599])
def test_final_statuses_are_kept(status: int) -> None:
    assert check_response({"status": status}) == (status, [])


@pytest.mark.parametrize(
    "status", [None, True, "200", 200.0, 0, 99, 100, 101, 199, 600, -200, 10**30, [], {}]
)
def test_other_statuses_are_refused(status: Any) -> None:
    with pytest.raises(ResponseInvalid, match="status"):
        check_response({"status": status})


def test_names_are_lowered_and_values_stripped() -> None:
    assert headers_of(["X-One", " a b\t"], ["set-cookie", "s=1"], ["Set-Cookie", "t=2"]) == [
        ("x-one", "a b"),
        ("set-cookie", "s=1"),
        ("set-cookie", "t=2"),
    ]


@pytest.mark.parametrize(
    "name",
    ["Connection", "keep-alive", "Transfer-Encoding", "content-length", "TE", "Upgrade", "Trailer",
     "Proxy-Authenticate", "date", "Server", "X-Request-Id", "X-Cold-Start", "Server-Timing",
     "X-Hearth-Version", "x-hearth-anything"],
)  # fmt: skip
def test_headers_of_the_connection_and_of_the_gateway_are_dropped(name: str) -> None:
    assert headers_of([name, "x"], ["kept", "y"]) == [("kept", "y")]


@pytest.mark.parametrize("cookie", ["hearth_session=1", "HEARTH_x=1", "  hearth_session=2; Path=/"])
def test_cookies_of_the_platform_are_dropped(cookie: str) -> None:
    assert headers_of(["Set-Cookie", cookie]) == []


@pytest.mark.parametrize(
    "value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b", "\x1b[2J", "\x7f", 1, None, ["a"], True]
)
def test_values_that_could_break_a_head_are_refused(value: Any) -> None:
    with pytest.raises(ResponseInvalid):
        headers_of(["x-a", value])


@pytest.mark.parametrize(
    "name", ["", "a b", "a:b", "a\r\nb", "é", "a\0", "x" * 257, 1, None, ["x"], {"a": 1}]
)
def test_names_that_are_no_tokens_are_refused(name: Any) -> None:
    with pytest.raises(ResponseInvalid):
        headers_of([name, "v"])


def test_values_beyond_ascii_travel_as_utf_8() -> None:
    ((_, value),) = headers_of(["x-a", "é€"])
    assert value.encode("latin-1") == "é€".encode()


def test_half_a_surrogate_pair_is_no_reason_to_fall_over() -> None:
    head = json.loads('{"status": 200, "headers": [["x-a", "\\ud800"]]}')
    assert check_response(head)[1][0][0] == "x-a"


@pytest.mark.parametrize("headers", ["x", {"a": "b"}, 1, [["a"]], [["a", "b", "c"]], ["ab"], [1]])
def test_headers_of_another_shape_are_refused(headers: Any) -> None:
    with pytest.raises(ResponseInvalid):
        check_response({"status": 200, "headers": headers})


def test_headers_have_a_count_and_a_size() -> None:
    headers_of(*[["x-a", "v"]] * RESPONSE_HEADERS_MAX)
    with pytest.raises(ResponseInvalid, match=str(RESPONSE_HEADERS_MAX)):
        headers_of(*[["x-a", "v"]] * (RESPONSE_HEADERS_MAX + 1))
    headers_of(["abc", "v" * (RESPONSE_HEADERS_BYTES_MAX - 3)])
    with pytest.raises(ResponseInvalid, match="bytes"):
        headers_of(["abc", "v" * (RESPONSE_HEADERS_BYTES_MAX - 2)])


def test_what_is_wrong_is_shown_in_short() -> None:
    with pytest.raises(ResponseInvalid) as caught:
        check_response({"status": "x" * 100_000})
    assert len(caught.value.message) < 200
