"""Functions as web pages: requests and answers of every kind, as they were sent, through the whole
platform."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any

import httpx
import pytest

from tests.fixtures.api import connected, deploy, head, invoke, read_all, refused
from tests.fixtures.platform import Platform

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

# Answers what the request's own JSON header says; else the event it was given.
MIRROR = """
import json

def handler(event, context):
    wish = event["headers"].get("x-wish")
    return json.loads(wish) if wish else {"body": json.dumps(event), "statusCode": 200}
"""
MIRROR_NODE = """
export const handler = async (event) => {
  const wish = event.headers["x-wish"];
  return wish ? JSON.parse(wish) : { statusCode: 200, body: JSON.stringify(event) };
};
"""
MIRRORS = {"python": MIRROR, "node": MIRROR_NODE}


@pytest.fixture(params=["python", "node"])
def mirror(client: httpx.Client, request: pytest.FixtureRequest) -> str:
    """The path of a mirror of each language."""
    runtime: str = request.param
    deploy(client, f"mirror-{runtime}", MIRRORS[runtime], runtime=runtime)
    return f"/function/mirror-{runtime}"


def wishing(client: httpx.Client, mirror: str, wish: Any, method: str = "GET") -> httpx.Response:
    """The answer that was wished for."""
    return client.request(method, mirror, headers={"x-wish": json.dumps(wish)})


def test_answers_of_every_kind(client: httpx.Client, mirror: str) -> None:
    for status in (200, 201, 299, 301, 400, 404, 418, 500, 503, 599):
        answer = wishing(client, mirror, {"statusCode": status, "body": f"said {status}"})
        assert (answer.status_code, answer.text) == (status, f"said {status}")
    for wish, kind in (([1, "ünï"], "application/json"), ("text", "application/json")):
        answer = wishing(client, mirror, wish)
        assert (answer.status_code, answer.json()) == (200, wish)
        assert answer.headers["content-type"] == kind
    empty = wishing(client, mirror, {"statusCode": 204, "body": "not sent"})
    assert (empty.status_code, empty.content) == (204, b"")
    assert "content-length" not in empty.headers
    moved = wishing(client, mirror, {"statusCode": 302, "headers": {"Location": "/else?a=b"}})
    assert (moved.status_code, moved.headers["location"]) == (302, "/else?a=b")
    cookies = ["a=1; HttpOnly", "b=2; Path=/x", "hearth_session=stolen"]
    said = wishing(client, mirror, {"statusCode": 200, "cookies": cookies})
    assert said.headers.get_list("set-cookie") == cookies[:2]
    several = {"statusCode": 200, "headers": {"X-List": ["1", "2"], "x-number": 7}}
    headers = wishing(client, mirror, several).headers
    assert (headers.get_list("x-list"), headers["x-number"]) == (["1", "2"], "7")


def test_head_has_the_headers_and_no_body(client: httpx.Client, mirror: str) -> None:
    wish = {"statusCode": 200, "headers": {"Content-Type": "text/plain"}, "body": "12345"}
    answer = wishing(client, mirror, wish, "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert (answer.headers["content-length"], answer.headers["content-type"]) == ("5", "text/plain")
    assert wishing(client, mirror, wish).text == "12345"  # the connection is not out of step


@pytest.mark.parametrize(
    "wish",
    [
        {"statusCode": 99},
        {"statusCode": 600},
        {"statusCode": "many"},
        {"statusCode": 200, "headers": {"bad name": "x"}},
        {"statusCode": 200, "headers": {"x-split": "a\r\nset-cookie: b=c"}},
        {"statusCode": 200, "headers": {f"x-{number}": "1" for number in range(200)}},
        {"statusCode": 200, "body": "!!!", "isBase64Encoded": True},
    ],
)
def test_what_cannot_be_a_response_is_a_502(client: httpx.Client, mirror: str, wish: Any) -> None:
    body = json.dumps(wish)
    name = mirror.rpartition("/")[2]
    code = f"import json\ndef handler(e, c):\n    return json.loads({body!r})\n"
    node = f"export const handler = async () => ({body});\n"
    runtime = name.rpartition("-")[2]
    deploy(client, f"odd-{runtime}", code if runtime == "python" else node, runtime=runtime)
    refused(client.get(f"/function/odd-{runtime}"), 502, "function_response_invalid")


def test_the_event_is_lambdas_and_paths_and_queries_arrive_as_sent(
    client: httpx.Client, mirror: str
) -> None:
    target = f"{mirror}/caf%C3%A9/%2Fslash/a%20b?x=1&x=2&y=%26&empty="
    event = client.post(target, content="ünï", headers={"content-type": "text/plain"}).json()
    assert event["version"] == "2.0"
    assert event["rawPath"] == "/café//slash/a b"
    assert event["rawQueryString"] == "x=1&x=2&y=%26&empty="
    assert event["queryStringParameters"] == {"x": "1,2", "y": "&", "empty": ""}
    http_ = event["requestContext"]["http"]
    assert (http_["method"], http_["sourceIp"]) == ("POST", "127.0.0.1")
    assert (event["body"], event["isBase64Encoded"]) == ("ünï", False)
    cookies = client.get(mirror, headers={"cookie": "a=1; hearth_ui=secret; b=2"}).json()
    assert cookies["cookies"] == ["a=1", "b=2"]
    assert "secret" not in json.dumps(cookies)
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert client.request(method, mirror).json()["requestContext"]["http"]["method"] == method


def test_keys_and_platform_headers_stay_on_this_side(
    platform: Platform, client: httpx.Client, mirror: str
) -> None:
    sent = {"X-Hearth-Version": "9", "X-Forwarded-For": "6.6.6.6", "Connection": "x-secret"}
    event = client.get(mirror, headers={**sent, "X-Secret": "1", "X-Kept": "2"}).json()
    headers = event["headers"]
    assert not {name for name in headers if name.startswith("x-hearth-")}
    assert not {"authorization", "x-secret", "connection"} & headers.keys()
    assert platform.key not in json.dumps(event)
    assert "6.6.6.6" not in json.dumps(event)
    assert headers["x-kept"] == "2"
    stolen = {"X-Hearth-Invocation-Id": "x", "Transfer-Encoding": "chunked", "Content-Length": "9"}
    answer = wishing(client, mirror, {"statusCode": 200, "headers": stolen, "body": "abc"})
    assert answer.text == "abc"
    assert answer.headers["content-length"] == "3"
    assert answer.headers.get_list("x-hearth-invocation-id") != ["x"]
    assert answer.headers["x-hearth-runtime"] in ("python3.13", "node24")
    timing = [leg.partition(";")[0] for leg in answer.headers["server-timing"].split(", ")]
    assert timing == ["queue", "boot", "init", "handler", "cpu"]


def test_a_public_function_sees_the_authorization_that_is_its_own(
    platform: Platform, client: httpx.Client
) -> None:
    deploy(client, "public", MIRROR, auth="none")
    deploy(client, "closed", MIRROR)
    with httpx.Client(base_url=platform.url) as stranger:
        own = stranger.get("/function/public", headers={"authorization": "Basic eDp5"}).json()
        assert own["headers"]["authorization"] == "Basic eDp5"
        assert stranger.get("/function/public:latest").status_code == 200
        refused(stranger.get("/function/public:1"), 401, "unauthenticated")
        refused(stranger.get("/function/closed"), 401, "unauthenticated")
        refused(stranger.get("/function/nobody"), 401, "unauthenticated")
        wrong = {"authorization": "Bearer hk_" + "x" * 43}
        refused(stranger.get("/function/public", headers=wrong), 401, "unauthenticated")
    assert "authorization" not in client.get("/function/public").json()["headers"]


ECHO_BODY = """
import base64

def handler(event, context):
    body = event.get("body") or ""
    data = base64.b64decode(body) if event["isBase64Encoded"] else body.encode()
    return {"statusCode": 200, "headers": {"Content-Type": "application/octet-stream"},
            "body": base64.b64encode(data).decode(), "isBase64Encoded": True}
"""
ECHO_BODY_NODE = """
export const handler = async (event) => {
  const data = Buffer.from(event.body ?? "", event.isBase64Encoded ? "base64" : "utf8");
  return { statusCode: 200, headers: { "Content-Type": "application/octet-stream" },
           body: data.toString("base64"), isBase64Encoded: true };
};
"""


@pytest.mark.parametrize(("runtime", "code"), [("python", ECHO_BODY), ("node", ECHO_BODY_NODE)])
def test_bodies_up_to_the_limit_pass_both_ways_byte_for_byte(
    platform: Platform, client: httpx.Client, runtime: str, code: str
) -> None:
    name = f"bodies-{runtime}"
    most = platform.settings.payload_bytes_max
    deploy(client, name, code, runtime=runtime, memory_mb=512)
    for body in (b"", b"\0", bytes(range(256)), os.urandom(most)):
        answer = client.post(f"/function/{name}", content=body)
        assert answer.status_code == 200, answer.text[:500]
        assert answer.content == body
    kept = client.post(f"/function/{name}", content=os.urandom(64))
    assert kept.headers["x-cold-start"] == "false"
    for target in (f"/function/{name}", f"/v1/functions/{name}/invocations"):
        with connected(platform) as sock:
            sock.sendall(head(platform, "POST", target, f"content-length: {most + 1}"))
            status, headers, body = read_all(sock)  # before a byte of the body was sent
        assert (status, headers["connection"]) == (413, "close")
        assert b'"payload_too_large"' in body
        chunks = iter([bytes(most // 2)] * 3)
        refused(client.post(target, content=chunks), 413, "payload_too_large")


def test_an_event_up_to_the_limit_passes_and_what_is_no_json_is_refused(
    platform: Platform, client: httpx.Client
) -> None:
    most = platform.settings.payload_bytes_max
    deploy(client, "events", "def handler(event, context):\n    return event\n", memory_mb=512)
    body = b'"' + b"x" * (most - 2) + b'"'
    answer = client.post("/v1/functions/events/invocations", content=body)
    assert (answer.status_code, answer.content == body) == (200, True)
    for wrong in (b"{", b"\xff", b"nope", b"[" * 100_000, b'"' + b"y" * 100_000):
        answer = client.post("/v1/functions/events/invocations", content=wrong)
        refused(answer, 400, "request_invalid")
    assert client.post("/v1/functions/events/invocations").json() == {}
    assert invoke(client, "events", {"ü": "\U0001f525", "n": [1.5, None]}).json() == {
        "ü": "\U0001f525",
        "n": [1.5, None],
    }


def test_one_connection_serves_many_requests_of_all_kinds(
    platform: Platform, client: httpx.Client, mirror: str
) -> None:
    settings = platform.settings
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=60)
    key = {"authorization": f"Bearer {platform.key}"}
    for method, target, status in (
        ("GET", mirror, 200),
        ("GET", "/function/nobody", 404),
        ("HEAD", mirror, 200),
        ("GET", "/nowhere", 404),
        ("GET", mirror, 200),
        ("PUT", "/healthz", 405),
        ("GET", mirror, 200),
    ):
        connection.request(method, target, headers=key)
        answer = connection.getresponse()
        assert (answer.status, answer.read() != b"") == (status, method != "HEAD")
        assert answer.headers["x-request-id"]
    connection.close()
