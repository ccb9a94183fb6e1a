"""A user's way over HTTP: versions, settings, aliases and back; what is kept is what was sent."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

import httpx
import pytest

from tests.fixtures.api import (
    ECHO,
    deploy,
    exists,
    invoke,
    logged,
    objects,
    packed,
    passing,
    put,
    put_code,
    refused,
    seats,
    until,
)
from tests.fixtures.platform import Platform

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]


def answers(number: int) -> str:
    """Code that says which it is."""
    return f"import os\ndef handler(event, context):\n    return [{number}, os.environ.get('A')]\n"


def test_versions_settings_aliases_and_the_way_back(client: httpx.Client) -> None:
    first = put(client, "path", {"main.py": answers(1)})
    assert (first.status_code, first.json()["version"]) == (201, 1)
    second = put(client, "path", {"main.py": answers(2)})
    assert (second.status_code, second.json()["version"]) == (200, 2)
    assert invoke(client, "path").json() == [2, None]

    changed = client.patch("/v1/functions/path?wait=true", json={"env": {"A": "b"}})
    assert (changed.status_code, changed.json()["version"]) == (200, 3)
    assert changed.json()["archive"] == second.json()["archive"]
    told = client.get("/v1/functions/path/versions/3/build-log").text
    assert "the code is unchanged: nothing to install" in told
    assert invoke(client, "path").json() == [2, "b"]

    alias = client.put("/v1/functions/path/aliases/prod", json={"version": 1})
    assert alias.json() == {"name": "prod", "version": 1, "weights": {}}
    put(client, "path", {"main.py": answers(4)})
    called = {q: invoke(client, f"path:{q}") for q in ("prod", "1", "3", "latest")}
    assert {q: answer.json() for q, answer in called.items()} == {
        "prod": [1, None],
        "1": [1, None],
        "3": [2, "b"],
        "latest": [4, None],
    }
    assert called["prod"].headers["x-hearth-version"] == "1"
    assert invoke(client, "path", params={"qualifier": "prod"}).json() == [1, None]

    back = client.post("/v1/functions/path/rollback")
    assert (back.status_code, back.json()["version"]) == (200, 3)
    assert invoke(client, "path").json() == [2, "b"]
    refused(client.delete("/v1/functions/path/versions/1"), 409, "version_in_use")
    assert client.delete("/v1/functions/path/versions/4").status_code == 204
    refused(invoke(client, "path:4"), 404, "version_not_found")
    refused(invoke(client, "path:nobody"), 404, "alias_not_found")


def test_a_split_alias_sends_a_share_of_the_calls_to_the_other_version(
    client: httpx.Client,
) -> None:
    for number in (1, 2):
        deploy(client, "split", answers(number))
    body = {"version": 1, "weights": {"2": 0.5}}
    assert client.put("/v1/functions/split/aliases/both", json=body).status_code == 200
    seen = {invoke(client, "split:both").json()[0] for _ in range(64)}
    assert seen == {1, 2}


def test_deleting_leaves_no_name_no_log_and_no_sandbox(
    platform: Platform, client: httpx.Client
) -> None:
    before = seats(platform.settings)
    deploy(client, "gone", "def handler(e, c):\n    print('here')\n")
    invoke(client, "gone")
    assert [line["text"] for line in logged(client, "gone")] == ["here"]
    assert seats(platform.settings) == before + 1
    assert client.delete("/v1/functions/gone").status_code == 204
    until(lambda: seats(platform.settings) == before, "the sandbox outlived its function")
    refused(invoke(client, "gone"), 404, "function_not_found")
    refused(client.get("/v1/functions/gone/logs"), 404, "function_not_found")
    refused(client.delete("/v1/functions/gone"), 404, "function_not_found")
    assert deploy(client, "gone")["version"] == 1
    assert logged(client, "gone") == []


def test_the_archive_comes_back_byte_for_byte(client: httpx.Client) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", ECHO)
    for name, sent, kind in (
        ("kept-tar", packed({"main.py": ECHO, "data.bin": bytes(range(256))}), "application/gzip"),
        ("kept-zip", buffer.getvalue(), "application/zip"),
    ):
        version = put(client, name, sent).json()
        digest = hashlib.sha256(sent).hexdigest()
        assert version["archive"] == {"sha256": digest, "bytes": len(sent)}
        got = client.get(f"/v1/functions/{name}/versions/1/archive")
        assert got.content == sent
        assert (got.headers["content-type"], got.headers["etag"]) == (kind, f'"{digest}"')
        assert invoke(client, name, {"a": 1}).json() == {"a": 1}


def test_single_files_and_inline_code_of_both_languages(client: httpx.Client) -> None:
    module = "export const handler = async (event) => ({ node: event.a });\n"
    common = "exports.handler = async (event) => ({ node: event.a });\n"
    for filename, code, runtime in (
        ("whatever.py", "async def handler(event, context):\n    return event\n", "python"),
        ("index.mjs", module, "node"),
        ("lambda.js", common, "node24"),
    ):
        name = "single-" + filename.partition(".")[0]
        answer = put(client, name, code.encode(), filename=filename, runtime=runtime)
        assert answer.status_code == 201, answer.text
        expected = {"a": 1} if runtime == "python" else {"node": 1}
        assert invoke(client, name, {"a": 1}).json() == expected
    deploy(client, "inline-node", module, runtime="node")
    assert invoke(client, "inline-node", {"a": 2}).json() == {"node": 2}
    wrong = put(client, "single-wrong", ECHO.encode(), filename="main.py", runtime="node")
    refused(wrong, 422, "archive_invalid")
    assert not exists(client, "single-wrong")


def test_a_manifest_configures_and_the_request_wins(client: httpx.Client) -> None:
    manifest = 'runtime = "python"\nhandler = "app.run"\nmemory_mb = 96\n[env]\nA = "b"\n'
    code = "import os\ndef run(e, c):\n    return [os.environ['A'], c.memory_limit_in_mb]\n"
    files = {"app.py": code, "hearth.toml": manifest}
    version = put(client, "manifest", files, memory_mb=112).json()
    assert (version["config"]["handler"], version["config"]["memory_mb"]) == ("app.run", 112)
    answer = invoke(client, "manifest").json()
    assert (answer[0], int(answer[1])) == ("b", 112)


def test_post_makes_a_function_once_and_a_deploy_may_not_wait(client: httpx.Client) -> None:
    body = {"config": {"name": "once", "runtime": "python"}, "code": ECHO}
    made = client.post("/v1/functions", json=body)
    assert (made.status_code, made.json()["status"]) == (202, "building")
    place = made.headers["location"]
    until(lambda: client.get(place).json()["status"] == "active", "it was never built")
    assert invoke(client, "once", [1]).json() == [1]
    refused(client.post("/v1/functions", json=body), 409, "function_exists")


def test_a_disabled_function_is_refused_until_it_is_enabled(client: httpx.Client) -> None:
    deploy(client, "paused")
    off = client.patch("/v1/functions/paused?wait=true", json={"enabled": False})
    assert off.status_code == 200
    refused(invoke(client, "paused"), 409, "function_disabled")
    client.patch("/v1/functions/paused?wait=true", json={"enabled": True})
    assert invoke(client, "paused", 1).json() == 1


def test_a_failed_deploy_changes_nothing_and_says_why(
    platform: Platform, client: httpx.Client
) -> None:
    deploy(client, "steady", answers(1))
    error = refused(put_code(client, "steady", "def handler(:\n"), 422, "build_failed")
    assert error["version"] == 2
    assert "SyntaxError" in error["message"]
    assert "line 1" in error["log"]
    assert client.get("/v1/functions/steady/versions/2/build-log").text.endswith(error["log"])
    assert invoke(client, "steady").json() == [1, None]
    shown = client.get("/v1/functions/steady").json()
    assert (shown["version"], shown["newest"], shown["status"]) == (1, 2, "failed")
    refused(invoke(client, "steady:2"), 409, "version_not_active")
    alias = client.put("/v1/functions/steady/aliases/prod", json={"version": 2})
    refused(alias, 409, "version_not_active")
    assert deploy(client, "steady", answers(3))["version"] == 3
    assert passing(platform.settings) == []


@pytest.mark.parametrize(
    ("code", "handler", "says"),
    [
        ("def handler(:\n", "main.handler", "SyntaxError"),
        ("import nothing_of_that_name\n", "main.handler", "No module named"),
        ("raise RuntimeError('at import')\n", "main.handler", "RuntimeError: at import"),
        ("import os\nos._exit(3)\n", "main.handler", "ended while its code was loaded"),
        ("def other(e, c): ...\n", "main.handler", "found: other"),
        ("def handler(e, c): ...\n", "app.handler", "found: main"),
        ("handler = 7\n", "main.handler", "not"),
        ("x = bytearray(10**9)\n", "main.handler", "memory"),
    ],
)
def test_code_that_cannot_be_loaded_fails_its_deploy_by_name(
    platform: Platform, client: httpx.Client, code: str, handler: str, says: str
) -> None:
    before = seats(platform.settings)
    error = refused(put_code(client, "unloadable", code, handler=handler), 422, "build_failed")
    assert says in error["message"], error
    assert error["message"] in error["log"]
    refused(invoke(client, "unloadable"), 409, "version_not_active")
    until(lambda: seats(platform.settings) == before, "its sandbox stays")
    assert client.delete("/v1/functions/unloadable").status_code == 204


# --- configuration ---


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"memory": 128}, {"memory"}),
        ({"memory_mb": "128"}, {"memory_mb"}),
        ({"memory_mb": 63}, {"memory_mb"}),
        ({"timeout_s": 901}, {"timeout_s"}),
        ({"cpus": 0, "concurrency": 0, "handler": "../x"}, {"cpus", "concurrency", "handler"}),
        ({"runtime": "cobol85"}, {"runtime"}),
        ({"env": {"1A": "x"}}, {"env"}),
        ({"env": {"AWS_LAMBDA_RUNTIME_API": "x"}}, {"env"}),
        ({"network": "host"}, {"network"}),
        ({"min_warm": 5, "concurrency": 1}, {"min_warm"}),
        ({"name": "other"}, {"name"}),
        ({"retry": {"attempts": 99}}, {"retry.attempts"}),
    ],
)
def test_configuration_that_cannot_be_is_refused_by_field(
    platform: Platform, client: httpx.Client, config: dict[str, Any], fields: set[str]
) -> None:
    kept = objects(platform.settings)
    error = refused(
        put(client, "misconfigured", {"main.py": ECHO}, **config), 422, "config_invalid"
    )
    assert {field["field"] for field in error["fields"]} == fields
    assert all(field["message"] for field in error["fields"])
    assert not exists(client, "misconfigured")
    assert (passing(platform.settings), objects(platform.settings)) == ([], kept)


def test_configuration_that_is_no_json_or_missing_is_refused(client: httpx.Client) -> None:
    archive = ("code.tar.gz", packed({"main.py": ECHO}))
    for config in (b"{", b"\xff", b"[]", b'"x"', b"null"):
        form = {"archive": archive, "config": (None, config)}
        answer = client.put("/v1/functions/broken", files=form)
        if config in (b"{", b"\xff"):
            refused(answer, 400, "request_invalid")
        else:
            refused(answer, 422, "config_invalid")
    error = refused(
        client.put("/v1/functions/broken", files={"archive": archive}), 422, "config_invalid"
    )
    assert [field["field"] for field in error["fields"]] == ["runtime"]
    files = {"main.py": ECHO, "hearth.toml": "runtime = "}
    error = refused(put(client, "broken", files), 422, "config_invalid")
    assert [field["field"] for field in error["fields"]] == ["hearth.toml"]
    refused(client.put("/v1/functions/Broken", json={}), 422, "name_invalid")
    refused(client.put("/v1/functions/" + "x" * 64, json={}), 422, "name_invalid")
    big = {"config": {"runtime": "python"}, "code": "#" * 600_000}
    refused(
        client.put(
            "/v1/functions/broken",
            content=json.dumps(big),
            headers={"content-type": "application/json"},
        ),
        422,
        "config_invalid",
    )
    assert not exists(client, "broken")
