"""Who may do what: roles, namespaces, restriction to functions, expiry, the admin key."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime, timedelta

import pytest

from core.settings import Settings, SettingsInvalid
from gateway.answers import KeyMade, KeyOut, Page
from tests.integration.gateway.conftest import ECHO, Node, form_of, running

NOBODY = {"authorization": ""}
DEPLOY_FORM = form_of({"main.py": ECHO}, '{"runtime": "python"}')
CALLS = {
    "list": ("GET", "/v1/functions"),
    "show": ("GET", "/v1/functions/hello"),
    "log": ("GET", "/v1/functions/hello/logs"),
    "archive": ("GET", "/v1/functions/hello/versions/1/archive"),
    "invoke": ("POST", "/v1/functions/hello/invocations"),
    "http": ("GET", "/function/hello"),
    "patch": ("PATCH", "/v1/functions/hello"),
    "alias": ("PUT", "/v1/functions/hello/aliases/prod"),
    "rollback": ("POST", "/v1/functions/hello/rollback"),
    "delete": ("DELETE", "/v1/functions/hello/versions/9"),
    "keys": ("GET", "/v1/keys"),
    "new key": ("POST", "/v1/keys"),
}
READS, RUNS = {"list", "show", "log", "archive"}, {"invoke", "http"}
CHANGES, ADMINISTERS = {"patch", "alias", "rollback", "delete"}, {"keys", "new key"}


async def allowed(node: Node, headers: dict[str, str]) -> set[str]:
    """The calls that are not refused for want of a right."""
    found = set()
    for call, (method, path) in CALLS.items():
        answer = await node.client.request(method, path, headers=headers)
        if answer.status_code not in (401, 403):
            found.add(call)
    return found


async def test_each_role_may_do_what_the_table_says(node: Node) -> None:
    await node.deploy("hello")
    assert await allowed(node, NOBODY) == set()
    assert await allowed(node, await node.key("viewer")) == READS
    assert await allowed(node, await node.key("invoker")) == RUNS
    assert await allowed(node, await node.key("deployer")) == READS | RUNS | CHANGES
    assert await allowed(node, await node.key("admin")) == READS | RUNS | CHANGES | ADMINISTERS
    assert await allowed(node, {}) == READS | RUNS | CHANGES | ADMINISTERS


async def test_who_is_unknown_gets_401_and_who_may_not_403(node: Node) -> None:
    await node.deploy("hello")
    for header in ("", "Bearer", "Bearer hk_nobody", "Bearer other", "Basic aGs6eA=="):
        answer = await node.client.get("/v1/functions", headers={"authorization": header})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    viewer = await node.key("viewer")
    answer = await node.invoke("hello", headers=viewer)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    answer = await node.client.put("/v1/functions/new", files=DEPLOY_FORM, headers=viewer)
    assert answer.status_code == 403


async def test_another_namespace_does_not_exist(node: Node) -> None:
    await node.deploy("hello")
    await node.deploy("team-a.hello", "def handler(e, c): return 'team'")
    theirs = await node.key("admin", namespace="team-a")
    assert (await node.invoke("hello", headers=theirs)).json() == "team"
    assert (await node.invoke("hello")).json() == {}
    assert (await node.invoke("team-a.hello")).json() == "team"
    for name in ("default.hello", "default.none"):
        answer = await node.invoke(name, headers=theirs)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "function_not_found")
        answer = await node.client.get(f"/v1/functions/{name}", headers=theirs)
        assert answer.status_code == 404
        answer = await node.client.put(f"/v1/functions/{name}", files=DEPLOY_FORM, headers=theirs)
        assert answer.status_code == 404
    listed = (await node.client.get("/v1/functions", headers=theirs)).json()["items"]
    assert [f["namespace"] for f in listed] == ["team-a"]
    query = {"namespace": "default"}
    assert (await node.client.get("/v1/functions", params=query, headers=theirs)).status_code == 403
    other = {"namespace": "team-a"}
    listed = (await node.client.get("/v1/functions", params=other)).json()["items"]
    assert len(listed) == 1


async def test_a_key_restricted_to_functions_sees_and_runs_those_only(node: Node) -> None:
    await node.deploy("mine")
    await node.deploy("other")
    key = await node.key("deployer", functions=["mine", "new"])
    assert (await node.invoke("mine", 1, headers=key)).json() == 1
    assert (await node.invoke("other", headers=key)).status_code == 403
    listed = (await node.client.get("/v1/functions", headers=key)).json()["items"]
    assert [f["name"] for f in listed] == ["mine"]
    for name, status in (("new", 202), ("third", 403)):
        put = await node.client.put(f"/v1/functions/{name}", files=DEPLOY_FORM, headers=key)
        assert put.status_code == status
        config = f'{{"runtime": "python", "name": "{name}x"}}'
        form = {**DEPLOY_FORM, "config": (None, config)}
        post = await node.client.post("/v1/functions", files=form, headers=key)
        assert post.status_code == 403
    admin = await node.key("admin", functions=["mine"])
    new = {"name": "x", "role": "admin"}
    assert (await node.client.post("/v1/keys", json=new, headers=admin)).status_code == 403


async def test_an_expired_key_opens_nothing(node: Node) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    key = await node.key("viewer", expires_at=soon.isoformat())
    assert (await node.client.get("/v1/functions", headers=key)).status_code == 200
    past = datetime.now(UTC) - timedelta(seconds=1)
    key = await node.key("viewer", expires_at=past.isoformat())
    answer = await node.client.get("/v1/functions", headers=key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")


async def test_a_deleted_key_opens_nothing_from_that_answer_on(node: Node) -> None:
    await node.deploy("hello")
    made = await node.client.post("/v1/keys", json={"name": "ci", "role": "invoker"})
    key = KeyMade.model_validate_json(made.content)
    assert made.headers["cache-control"] == "no-store"
    headers = {"authorization": f"Bearer {key.key}"}
    assert (await node.invoke("hello", headers=headers)).status_code == 200
    assert (await node.client.delete(f"/v1/keys/{key.id}")).status_code == 204
    assert (await node.invoke("hello", headers=headers)).status_code == 401
    assert (await node.client.delete(f"/v1/keys/{key.id}")).status_code == 404


async def test_keys_are_listed_in_pages_without_their_text(node: Node) -> None:
    for number in range(3):
        await node.key("viewer", functions=[f"f{number}"])
    answer = await node.client.get("/v1/keys?limit=3")
    page = Page[KeyOut].model_validate_json(answer.content)
    assert [key.name for key in page.items] == ["first admin", "viewer", "viewer"]
    rest = await node.client.get(f"/v1/keys?cursor={page.next}")
    assert [key["functions"] for key in rest.json()["items"]] == [["f2"]]
    assert "hk_" not in answer.text
    assert "digest" not in answer.text


async def test_an_admin_of_a_namespace_makes_keys_of_that_one_only(node: Node) -> None:
    theirs = await node.key("admin", namespace="team-a")
    made = await node.client.post("/v1/keys", json={"name": "x", "role": "invoker"}, headers=theirs)
    assert made.json()["namespace"] == "team-a"
    for namespace in ("default", "*"):
        new = {"name": "x", "role": "viewer", "namespace": namespace}
        answer = await node.client.post("/v1/keys", json=new, headers=theirs)
        assert answer.status_code == 403, namespace
    listed = (await node.client.get("/v1/keys", headers=theirs)).json()["items"]
    assert {key["namespace"] for key in listed} == {"team-a"}
    ours = (await node.client.get("/v1/keys")).json()["items"]
    first = next(key["id"] for key in ours if key["name"] == "first admin")
    answer = await node.client.delete(f"/v1/keys/{first}", headers=theirs)
    assert answer.status_code == 404


async def test_a_key_that_cannot_be_is_refused(node: Node) -> None:
    for wrong in (
        {"name": "x"},
        {"name": "", "role": "viewer"},
        {"name": "x", "role": "root"},
        {"name": "x", "role": "viewer", "functions": ["A"]},
        {"name": "x", "role": "viewer", "namespace": "A"},
        {"name": "x", "role": "viewer", "expires_at": "2030-01-01T00:00:00"},
        {"name": "x", "role": "viewer", "expires": "never"},
    ):
        assert (await node.client.post("/v1/keys", json=wrong)).status_code == 422, wrong


async def test_the_last_admin_key_of_the_platform_stays(node: Node) -> None:
    first = (await node.client.get("/v1/keys")).json()["items"][0]["id"]
    answer = await node.client.delete(f"/v1/keys/{first}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    second = await node.key("admin", namespace="*")
    assert (await node.client.delete(f"/v1/keys/{first}", headers=second)).status_code == 204
    assert (await node.client.get("/v1/keys", headers=second)).status_code == 200
    assert (await node.client.get("/v1/keys")).status_code == 401


async def test_the_first_admin_key_is_kept_and_registered_again_in_a_new_catalog(
    settings: Settings,
) -> None:
    async with running(settings) as node:
        first = node.admin_key
        assert stat.S_IMODE(settings.admin_key_file.stat().st_mode) == 0o600
    async with running(settings) as node:
        assert node.admin_key == first
        assert len((await node.client.get("/v1/keys")).json()["items"]) == 1
    for path in settings.data_dir.glob("catalog.db*"):
        path.unlink()
    async with running(settings) as node:
        assert node.admin_key == first
        assert (await node.client.get("/v1/keys")).status_code == 200


async def test_a_spoiled_admin_key_file_is_said_at_start(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True)
    settings.admin_key_file.write_text("nonsense\n")
    with pytest.raises(SettingsInvalid, match="does not hold a key"):
        async with running(settings):
            pass


async def test_a_public_function_answers_anybody_by_alias_alone(node: Node) -> None:
    await node.deploy("open", ECHO, {"auth": "none"})
    await node.deploy("closed")
    await node.client.put("/v1/functions/open/aliases/prod", json={"version": 1})
    for path in ("/function/open", "/function/open:prod/x", "/function/default.open"):
        assert (await node.client.get(path, headers=NOBODY)).status_code == 200, path
    assert (await node.invoke("open", 5, headers=NOBODY)).json() == 5
    for path in (
        "/function/open:1",
        "/function/closed",
        "/function/none",
        "/function/open:gone",
        "/function/closed:9",
    ):
        answer = await node.client.get(path, headers=NOBODY)
        assert answer.status_code == 401, path
    unknown = {"authorization": "Bearer hk_" + "x" * 43}
    assert (await node.client.get("/function/open", headers=unknown)).status_code == 401


async def test_strangers_learn_nothing_of_a_fault_and_owners_everything(node: Node) -> None:
    await node.deploy("open", "def handler(e, c): raise KeyError('secret')", {"auth": "none"})
    for call in (
        node.client.get("/function/open", headers=NOBODY),
        node.invoke("open", headers=NOBODY),
        node.invoke("default.open", headers=await node.key("admin", namespace="elsewhere")),
        node.invoke("open", headers=await node.key("viewer")),
    ):
        answer = await call
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "request_id"}
        assert "secret" not in answer.text
    owner = (await node.invoke("open")).json()["error"]
    assert (owner["code"], owner["type"]) == ("function_error", "KeyError")
    assert "secret" in owner["message"]
    assert any("main.py" in line for line in owner["trace"])


async def test_another_nodes_change_arrives_without_a_notice(node: Node) -> None:
    await node.deploy("hello")
    alias = {"version": 1}
    assert (await node.client.put("/v1/functions/hello/aliases/b", json=alias)).status_code == 200
    function = node.catalog.function("default", "hello")
    node.catalog.delete_alias(function.id, "b")  # as another node would, its notice lost
    while (await node.invoke("hello:b")).status_code != 404:
        await asyncio.sleep(0.05)
