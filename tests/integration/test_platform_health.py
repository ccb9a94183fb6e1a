"""What a platform says of itself, and of every request that goes wrong."""

from __future__ import annotations

import httpx
import pytest
from openapi_spec_validator import validate

from tests.fixtures.api import deploy, refused
from tests.fixtures.platform import Platform

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]


def test_health_and_readiness_need_no_key(platform: Platform) -> None:
    with httpx.Client(base_url=platform.url) as stranger:
        assert stranger.get("/healthz").json() == {"status": "ok"}
        parts = dict.fromkeys(("database", "redis", "object store", "podman"), "ok")
        assert stranger.get("/readyz").json() == {"status": "ready", "parts": parts}
        assert stranger.head("/healthz").content == b""


def test_the_openapi_document_is_valid_and_describes_what_answers(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert "/v1/functions/{name}" in document["paths"]
    for path, methods in document["paths"].items():
        if "{" not in path and "get" in methods:
            assert client.get(path).status_code == 200, path


def test_every_error_is_json_with_the_id_of_its_request(client: httpx.Client) -> None:
    deploy(client, "asked")
    body = "application/json"
    for method, path, sent, status, code in (
        ("GET", "/nowhere", b"", 404, "not_found"),
        ("GET", "/v1/functions/nobody", b"", 404, "function_not_found"),
        ("GET", "/v1/functions/asked/versions/9", b"", 404, "version_not_found"),
        ("GET", "/v1/functions/asked/versions/x", b"", 400, "request_invalid"),
        ("GET", "/v1/functions/asked/aliases/x", b"", 404, "alias_not_found"),
        ("GET", "/v1/functions?limit=0", b"", 400, "request_invalid"),
        ("GET", "/v1/functions?colour=red", b"", 400, "request_invalid"),
        ("PUT", "/v1/functions", b"{}", 405, "method_not_allowed"),
        ("PUT", "/v1/functions/UPPER", b"{}", 422, "name_invalid"),
        ("PATCH", "/v1/functions/asked", b"[]", 422, "config_invalid"),
        ("PUT", "/v1/functions/asked/aliases/latest", b"{}", 422, "unprocessable"),
        ("POST", "/v1/functions/asked/rollback", b"", 409, "conflict"),
        ("POST", "/v1/functions/asked:x/invocations", b"", 404, "alias_not_found"),
        ("POST", "/v1/functions/asked/invocations?mode=async", b"", 501, "feature_unavailable"),
        ("POST", "/async-function/asked", b"", 501, "feature_unavailable"),
        ("GET", "/function/", b"", 422, "name_invalid"),
        ("DELETE", "/v1/keys/nobody", b"", 404, "key_not_found"),
    ):
        own = {"x-request-id": "mine-1.2_3", "content-type": body}
        answer = client.request(method, path, content=sent, headers=own)
        error = refused(answer, status, code)
        assert error["request_id"] == "mine-1.2_3"
    strange = client.get("/nowhere", headers={"x-request-id": "not sane: <script>"})
    assert "script" not in refused(strange, 404, "not_found")["request_id"]
    unsupported = client.put("/v1/functions/asked", content=b"x")
    refused(unsupported, 415, "media_type_unsupported")


def test_a_key_opens_what_its_role_says_and_nothing_else(
    platform: Platform, client: httpx.Client
) -> None:
    deploy(client, "guarded")
    rights = {
        "viewer": ([200, 403, 403, 403], "forbidden"),
        "invoker": ([403, 200, 403, 403], "forbidden"),
        "deployer": ([200, 200, 200, 403], "forbidden"),
        "admin": ([200, 200, 200, 200], ""),
    }
    for role, (expected, code) in rights.items():
        made = client.post("/v1/keys", json={"name": role, "role": role})
        headers = {"authorization": f"Bearer {made.json()['key']}"}
        with httpx.Client(base_url=platform.url, headers=headers, timeout=60) as own:
            answers = [
                own.get("/v1/functions/guarded"),
                own.post("/v1/functions/guarded/invocations"),
                own.patch("/v1/functions/guarded?wait=true", json={"description": role}),
                own.get("/v1/keys"),
            ]
            assert [answer.status_code for answer in answers] == expected, role
            for answer in answers:
                if answer.status_code != 200:
                    refused(answer, 403, code)
            assert client.delete(f"/v1/keys/{made.json()['id']}").status_code == 204
            refused(own.get("/v1/functions"), 401, "unauthenticated")
