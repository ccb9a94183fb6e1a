"""Functions, versions, aliases: the management API on a running node."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
import zipfile
from typing import Any

from core.model import VersionStatus
from gateway.answers import AliasOut, FunctionOut, Page, VersionOut
from tests.integration.gateway.conftest import ECHO, Node, form_of, packed

SAYS = "def handler(event, context):\n    return {}\n"


def says(what: str) -> str:
    return SAYS.format(repr(what))


async def test_a_deploy_answers_202_at_once_and_the_version_becomes_active(node: Node) -> None:
    node.builder.held.clear()
    answer = await node.put("hello", {"main.py": ECHO}, wait=False)
    assert answer.status_code == 202, answer.text
    version = VersionOut.model_validate_json(answer.content)
    assert (version.version, version.status) == (1, VersionStatus.BUILDING)
    refused = await node.invoke("hello", {})
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "version_not_active"
    assert refused.json()["error"]["status"] == "building"
    numbered = await node.invoke("hello:1", {})
    assert numbered.status_code == 409
    node.builder.held.set()
    place = answer.headers["location"]
    while (await node.client.get(place)).json()["status"] == "building":
        await asyncio.sleep(0.02)
    assert (await node.client.get(place)).json()["status"] == "active"
    while (await node.invoke("hello", {})).status_code == 409:
        await asyncio.sleep(0.02)
    assert (await node.invoke("hello", {"a": 1})).json() == {"a": 1}


async def test_wait_answers_201_for_the_first_version_and_200_later(node: Node) -> None:
    first = await node.put("hello", {"main.py": says("one")})
    second = await node.put("hello", {"main.py": says("two")})
    assert (first.status_code, second.status_code) == (201, 200)
    assert (await node.invoke("hello")).json() == "two"
    assert (await node.invoke("hello:1")).json() == "one"


async def test_a_failed_build_is_a_422_with_its_log_and_the_old_version_serves(node: Node) -> None:
    await node.deploy("hello", says("good"))
    answer = await node.put("hello", {"main.py": "def handler(e, c:\n  pass"})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "build_failed"
    assert error["version"] == 2
    assert "SyntaxError" in error["log"]
    assert (await node.invoke("hello")).json() == "good"
    shown = (await node.client.get("/v1/functions/hello")).json()
    assert (shown["version"], shown["newest"], shown["status"]) == (1, 2, "failed")
    log = await node.client.get("/v1/functions/hello/versions/2/build-log")
    assert "SyntaxError" in log.text
    assert log.headers["content-type"].startswith("text/plain")
    refused = await node.invoke("hello:2")
    assert (refused.status_code, refused.json()["error"]["status"]) == (409, "failed")


async def test_a_handler_that_is_not_there_names_what_was_found(node: Node) -> None:
    answer = await node.put("hello", {"main.py": "def run(e, c): pass"})
    assert answer.status_code == 422
    assert '"found": ["run"]' in answer.json()["error"]["log"]


async def test_an_older_build_that_finishes_later_leaves_latest(node: Node) -> None:
    node.builder.held.clear()
    first = (await node.put("hello", {"main.py": says("one")}, wait=False)).json()
    second = (await node.put("hello", {"main.py": says("two")}, wait=False)).json()
    await node.builder.build(second["id"])
    await node.builder.build(first["id"])
    await node.gateway.parts.view.refresh()
    assert (await node.invoke("hello")).json() == "two"
    assert (await node.invoke("hello:1")).json() == "one"


async def test_inline_code_is_a_function(node: Node) -> None:
    body = {"config": {"runtime": "python"}, "code": says("inline")}
    answer = await node.client.put("/v1/functions/small?wait=true", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["config"]["runtime"] == "python3.13"
    assert (await node.invoke("small")).json() == "inline"


async def test_a_single_file_is_a_function(node: Node) -> None:
    answer = await node.put("one", says("file").encode(), filename="anything.py")
    assert answer.status_code == 201, answer.text
    assert (await node.invoke("one")).json() == "file"
    wrong = await node.put("one", b"export const handler = 1", filename="x.mjs")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "archive_invalid")


async def test_a_zip_is_a_function(node: Node) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("main.py", says("zip"))
    assert (await node.put("zipped", out.getvalue(), filename="c.zip")).status_code == 201
    assert (await node.invoke("zipped")).json() == "zip"


async def test_the_manifest_counts_and_the_request_wins(node: Node) -> None:
    manifest = (
        'name = "other"\nruntime = "python"\nmemory_mb = 256\ntimeout_s = 5\n[env]\nA = "b"\n'
    )
    files = {"main.py": ECHO, "hearth.toml": manifest}
    form = form_of(files, '{"timeout_s": 7}')
    answer = await node.client.put("/v1/functions/hello?wait=true", files=form)
    assert answer.status_code == 201, answer.text
    config = answer.json()["config"]
    assert config["memory_mb"] == 256
    assert config["timeout_s"] == 7
    assert config["env"] == {"A": "b"}


MANIFESTS = [
    ("runtime = 'python'\nmemory = 1", "memory"),
    ("runtime = 'python'\n[[triggers]]\ntype = 'http'", "triggers"),
    ("runtime = 'python'\nmemory_mb = '1'", "memory_mb"),
    ("runtime =", "hearth.toml"),
    ("runtime = 'cobol'", "runtime"),
]


async def test_a_manifest_that_cannot_be_is_a_422(node: Node) -> None:
    for manifest, field in MANIFESTS:
        form = form_of({"main.py": ECHO, "hearth.toml": manifest}, None)
        answer = await node.client.put("/v1/functions/hello", files=form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "config_invalid")
        assert answer.json()["error"]["fields"][0]["field"] == field
    assert (await node.client.get("/v1/functions")).json()["items"] == []


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"memory": 1}, "memory"),
    ({"memory_mb": "128"}, "memory_mb"),
    ({"memory_mb": 63}, "memory_mb"),
    ({"memory_mb": 128.5}, "memory_mb"),
    ({"memory_mb": True}, "memory_mb"),
    ({"timeout_s": 901}, "timeout_s"),
    ({"cpus": 0}, "cpus"),
    ({"concurrency": 0}, "concurrency"),
    ({"network": "host"}, "network"),
    ({"handler": "../x.y"}, "handler"),
    ({"env": {"A": 1}}, "env.A"),
    ({"env": {"1A": "x"}}, "env"),
    ({"env": {"HEARTH_X": "x"}}, "env"),
    ({"env": {"A": "x" * 70_000}}, "env"),
    ({"env": {"A": "${secrets.db}"}}, "env"),
    ({"labels": {"": "x"}}, "labels"),
    ({"name": "other"}, "name"),
    ({"name": "Other"}, "name"),
    ({"min_warm": 11}, "min_warm"),
    ({"runtime": "cobol"}, "runtime"),
    ({"retry": {"attempts": 0}}, "retry.attempts"),
    ({"retry": {"tries": 1}}, "retry.tries"),
]


async def test_a_config_that_cannot_be_names_the_field(node: Node) -> None:
    for config, field in CONFIGS:
        answer = await node.put("hello", {"main.py": ECHO}, config)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "config_invalid")
        assert answer.json()["error"]["fields"][0]["field"] == field, config
    assert (await node.client.get("/v1/functions")).json()["items"] == []
    assert node.leftovers() == []


async def test_post_creates_only_what_does_not_exist(node: Node) -> None:
    form = form_of({"main.py": ECHO}, '{"name": "new", "runtime": "python"}')
    assert (await node.client.post("/v1/functions?wait=true", files=form)).status_code == 201
    again = await node.client.post("/v1/functions", files=form)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "function_exists")
    versions = (await node.client.get("/v1/functions/new/versions")).json()["items"]
    assert len(versions) == 1
    unnamed = {**form, "config": (None, '{"runtime": "python"}')}
    assert (await node.client.post("/v1/functions", files=unnamed)).status_code == 422


async def test_patch_makes_the_next_version_with_the_same_code(node: Node) -> None:
    before = await node.deploy("hello", "import os\ndef handler(e, c): return os.environ.get('A')")
    changes = {"env": {"A": "new"}, "description": "d"}
    answer = await node.client.patch("/v1/functions/hello?wait=true", json=changes)
    assert answer.status_code == 200, answer.text
    after = answer.json()
    assert (after["version"], after["archive"]) == (2, before["archive"])
    assert after["config"] == {**before["config"], **changes}
    assert (await node.invoke("hello")).json() == "new"
    assert (await node.invoke("hello:1")).json() is None
    wrong = await node.client.patch("/v1/functions/hello", json={"memory": 1})
    assert wrong.status_code == 422
    assert (await node.client.patch("/v1/functions/none", json={})).status_code == 404


async def test_patch_needs_something_to_change(node: Node) -> None:
    node.builder.held.clear()
    await node.put("hello", {"main.py": ECHO}, wait=False)
    answer = await node.client.patch("/v1/functions/hello", json={"memory_mb": 256})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "version_not_active")


async def test_a_disabled_function_refuses_invocations(node: Node) -> None:
    await node.deploy("hello")
    await node.client.patch("/v1/functions/hello?wait=true", json={"enabled": False})
    answer = await node.invoke("hello")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "function_disabled")
    await node.client.patch("/v1/functions/hello?wait=true", json={"enabled": True})
    assert (await node.invoke("hello", 1)).json() == 1


async def test_functions_are_listed_in_pages_by_name(node: Node) -> None:
    node.builder.held.clear()
    for name in ("c", "a", "b"):
        await node.put(name, {"main.py": ECHO}, wait=False)
    names: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"?limit=2{cursor and '&cursor=' + cursor}"
        answer = await node.client.get(f"/v1/functions{query}")
        page = Page[FunctionOut].model_validate_json(answer.content)
        assert len(page.items) <= 2
        names += [item.name for item in page.items]
        cursor = page.next
    assert names == ["a", "b", "c"]
    for query in ("limit=0", "limit=x", "cursor=%00%00", "unknown=1"):
        assert (await node.client.get(f"/v1/functions?{query}")).status_code == 400


async def test_a_deleted_function_is_gone_with_everything_it_had(node: Node) -> None:
    await node.deploy("hello", "def handler(e, c): print('line'); return 1")
    await node.invoke("hello")
    assert (await node.client.delete("/v1/functions/hello")).status_code == 204
    assert (await node.invoke("hello")).status_code == 404
    assert (await node.client.get("/v1/functions/hello")).status_code == 404
    assert (await node.client.delete("/v1/functions/hello")).status_code == 404
    assert node.gateway.executor.stats().idle == 0
    await node.deploy("hello")
    assert (await node.client.get("/v1/functions/hello/logs")).text == ""
    assert (await node.client.get("/v1/functions/hello")).json()["version"] == 1


async def test_versions_are_listed_shown_and_deleted(node: Node) -> None:
    for number in range(3):
        await node.deploy("hello", says(str(number)))
    answer = await node.client.get("/v1/functions/hello/versions?limit=2")
    page = Page[VersionOut].model_validate_json(answer.content)
    assert [version.version for version in page.items] == [3, 2]
    rest = await node.client.get(f"/v1/functions/hello/versions?cursor={page.next}")
    assert [version["version"] for version in rest.json()["items"]] == [1]
    in_use = await node.client.delete("/v1/functions/hello/versions/3")
    assert (in_use.status_code, in_use.json()["error"]["code"]) == (409, "version_in_use")
    assert (await node.invoke("hello:1")).json() == "0"
    assert (await node.client.delete("/v1/functions/hello/versions/1")).status_code == 204
    gone = await node.invoke("hello:1")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "version_not_found")
    for odd in ("1", "0", "99999999999", "4294967296"):
        shown = await node.client.get(f"/v1/functions/hello/versions/{odd}")
        assert shown.status_code in (400, 404), odd
    assert (await node.client.get("/v1/functions/hello/versions/x")).status_code == 400


async def test_the_archive_comes_back_byte_for_byte(node: Node) -> None:
    archive = packed({"main.py": ECHO, "big.bin": bytes(range(256)) * 4000})
    await node.put("hello", archive)
    answer = await node.client.get("/v1/functions/hello/versions/1/archive")
    assert answer.content == archive
    assert answer.headers["etag"] == f'"{hashlib.sha256(archive).hexdigest()}"'
    assert answer.headers["content-disposition"] == 'attachment; filename="hello-1.tar.gz"'
    head = await node.client.head("/v1/functions/hello/versions/1/archive")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(archive)))
    assert head.content == b""
    assert node.leftovers() == []
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as opened:
        assert "main.py" in opened.getnames()


async def test_an_alias_splits_calls_by_weight_and_rolls_back(node: Node) -> None:
    for word in ("one", "two", "three"):
        await node.deploy("hello", says(word), {"concurrency": 20})
    path = "/v1/functions/hello/aliases/prod"
    answer = await node.client.put(path, json={"version": 1})
    assert AliasOut.model_validate_json(answer.content) == AliasOut(
        name="prod", version=1, weights={}
    )
    assert (await node.invoke("hello:prod")).json() == "one"
    assert (await node.invoke("hello", params={"qualifier": "prod"})).json() == "one"
    split = await node.client.put(path, json={"version": 2, "weights": {"3": 0.5}})
    assert split.json() == {"name": "prod", "version": 2, "weights": {"3": 0.5}}
    seen = {(await node.invoke("hello:prod")).json() for _ in range(60)}
    assert seen == {"two", "three"}
    back = await node.client.post("/v1/functions/hello/rollback", json={"alias": "prod"})
    assert back.json()["version"] == 1
    assert (await node.invoke("hello:prod")).json() == "one"
    names = (await node.client.get("/v1/functions/hello/aliases")).json()["items"]
    assert [alias["name"] for alias in names] == ["latest", "prod"]
    assert (await node.client.delete(path)).status_code == 204
    assert (await node.client.get(path)).status_code == 404
    missing = await node.invoke("hello:prod")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "alias_not_found")


async def test_rollback_moves_latest_back_and_the_next_deploy_forward(node: Node) -> None:
    await node.deploy("hello", says("one"))
    await node.deploy("hello", says("two"))
    assert (await node.client.post("/v1/functions/hello/rollback")).json()["version"] == 1
    assert (await node.invoke("hello")).json() == "one"
    nothing = await node.client.post("/v1/functions/hello/rollback")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "conflict")
    await node.deploy("hello", says("three"))
    assert (await node.invoke("hello")).json() == "three"


ALIASES: list[tuple[dict[str, Any], int]] = [
    ({"version": 9}, 404),
    ({"version": 0}, 422),
    ({"version": "1"}, 422),
    ({"version": 1, "weights": {"1": 0.1}}, 422),
    ({"version": 1, "weights": {"2": 1.5}}, 422),
    ({"version": 1, "weights": {"x": 0.5}}, 422),
    ({"version": 1, "weight": {}}, 422),
    ({}, 422),
]


async def test_an_alias_that_cannot_be_is_refused(node: Node) -> None:
    await node.deploy("hello")
    path = "/v1/functions/hello/aliases/prod"
    for body, status in ALIASES:
        assert (await node.client.put(path, json=body)).status_code == status, body
    assert (await node.client.get(path)).status_code == 404


async def test_names_of_aliases_and_functions_are_checked(node: Node) -> None:
    await node.deploy("hello")
    for alias in ("Prod", "7", "a_b", "%2e%2e"):
        path = f"/v1/functions/hello/aliases/{alias}"
        assert (await node.client.put(path, json={"version": 1})).status_code == 422
    latest = "/v1/functions/hello/aliases/latest"
    assert (await node.client.delete(latest)).status_code == 409
    for name in ("Hello", "a_b", "-a", "a" * 64, "%00", "h%C3%A9"):
        assert (await node.put(name, {"main.py": ECHO})).status_code == 422
        assert (await node.invoke(name)).status_code == 422


async def test_two_deploys_of_one_name_at_once_both_end(node: Node) -> None:
    deploys = [node.put("hello", {"main.py": says(str(i))}) for i in range(6)]
    answers = await asyncio.gather(*deploys)
    assert sorted(a.json()["version"] for a in answers) == [1, 2, 3, 4, 5, 6]
    assert {a.status_code for a in answers} == {200, 201}
    shown = (await node.client.get("/v1/functions/hello")).json()
    assert shown["version"] == 6
    newest = next(i for i, a in enumerate(answers) if a.json()["version"] == 6)
    assert (await node.invoke("hello")).json() == str(newest)
    assert node.leftovers() == []


async def test_paths_and_methods_that_do_not_exist_are_typed_errors(node: Node) -> None:
    missing = await node.client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = await node.client.post("/v1/functions/x")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert set(wrong.headers["allow"].split(", ")) >= {"GET", "PUT", "PATCH", "DELETE"}
    slash = await node.client.get("/v1/functions/")
    assert slash.status_code == 404
    assert "x-request-id" in slash.headers


async def test_health_readiness_and_openapi_need_no_key(node: Node) -> None:
    anonymous = {"authorization": ""}
    assert (await node.client.get("/healthz", headers=anonymous)).json() == {"status": "ok"}
    ready = await node.client.get("/readyz", headers=anonymous)
    assert ready.json()["parts"] == {
        "database": "ok",
        "redis": "ok",
        "object store": "ok",
        "podman": "ok",
    }
    document = (await node.client.get("/openapi.json", headers=anonymous)).json()
    assert document["openapi"].startswith("3.1")
