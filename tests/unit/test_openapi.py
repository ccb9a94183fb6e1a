"""/openapi.json is valid, whole, and says what the answers really look like."""

from __future__ import annotations

import json
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.manage import _openapi
from gateway.models import ConfigChanges
from gateway.openapi import document
from gateway.routes import ENDPOINTS

ALL = (*ENDPOINTS, _openapi())


def made() -> dict[str, Any]:
    """The document."""
    return dict(json.loads(document(ALL)))


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(made()).validate()


def test_every_route_is_in_it_and_nothing_that_is_not_served() -> None:
    paths = made()["paths"]
    described = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    served = {(endpoint.path, endpoint.method) for endpoint in ALL}
    invocations = {pair for pair in described - served if "/function/" in pair[0]}
    invocations |= {("/v1/functions/{name}/invocations", "POST")}
    assert described == served | invocations
    assert len(invocations) == 15


def test_operations_have_ids_of_their_own() -> None:
    paths = made()["paths"]
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_limits_and_refusal_of_unknown_fields_are_in_the_schema() -> None:
    schema = made()["components"]["schemas"]["ConfigChanges"]
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(ConfigChanges.model_fields)
    assert schema["properties"]["memory_mb"]["minimum"] == 16
    assert schema["properties"]["memory_mb"]["maximum"] == 10_240
    assert "default" not in schema["properties"]["runtime"]


def test_only_what_is_open_says_that_it_needs_no_key() -> None:
    paths = made()["paths"]
    is_open = {
        path for path, methods in paths.items() if methods.get("get", {}).get("security") == []
    }
    assert is_open == {"/healthz", "/readyz", "/openapi.json"}


def test_every_reference_leads_somewhere() -> None:
    spec = made()

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for value in node.values() for found in references(value)]
        if isinstance(node, list):
            return [found for value in node for found in references(value)]
        return []

    for reference in references(spec):
        place: Any = spec
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
