"""/openapi.json, made from the table of routes and the models that validate: it cannot drift."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.answers import ErrorOut

if TYPE_CHECKING:
    from gateway.routes import Endpoint, Media

_REF = "#/components/schemas/{model}"
_ABOUT = (
    "Self-hosted serverless functions. Wherever {name} stands, {namespace}.{name} is accepted; "
    "an invocation also takes {name}:{version or alias}."
)
_HTTP_METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
Mode = Literal["validation", "serialization"]


def document(endpoints: Iterable[Endpoint]) -> bytes:
    """The OpenAPI 3.1 document of these calls and of the two ways to invoke, as JSON."""
    endpoints = tuple(endpoints)
    refs, schemas = _schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, refs)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    paths |= _invocations()
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Hearth", "version": "1", "description": _ABOUT},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "responses": {"Error": _error_response()},
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"key": []}],
        }
    ).encode()


Refs = Mapping[tuple[type[BaseModel], Mode], Any]


def _schemas(endpoints: Iterable[Endpoint]) -> tuple[Refs, dict[str, Any]]:
    wanted: dict[tuple[type[BaseModel], Mode], None] = {(ErrorOut, "serialization"): None}
    for endpoint in endpoints:
        if endpoint.sends is not None:
            wanted[endpoint.sends, "validation"] = None
        for shape in endpoint.answers.values():
            model = shape if isinstance(shape, type) else getattr(shape, "line", None)
            if model is not None:
                wanted[model, "serialization"] = None
    made, definitions = models_json_schema(list(wanted), ref_template=_REF)
    refs: dict[tuple[Any, Mode], Any] = {**made}
    return refs, dict(definitions["$defs"])


def _operation(endpoint: Endpoint, refs: Refs) -> dict[str, Any]:
    answers = {str(status): _answer(shape, refs) for status, shape in endpoint.answers.items()}
    operation: dict[str, Any] = {
        "operationId": endpoint.handle.__name__,
        "summary": endpoint.says,
        "parameters": [*_path_parameters(endpoint.path), *_query_parameters(endpoint)],
        "responses": {**answers, "default": {"$ref": "#/components/responses/Error"}},
    }
    if endpoint.right is None:
        operation["security"] = []
    else:
        operation["description"] = f"Needs a key with the right to {endpoint.right.value}."
    if endpoint.sends is not None:
        operation["requestBody"] = _body(endpoint, refs)
    return operation


def _body(endpoint: Endpoint, refs: Refs) -> dict[str, Any]:
    assert endpoint.sends is not None
    content = {"application/json": {"schema": refs[endpoint.sends, "validation"]}}
    if endpoint.takes_archive:
        form = {
            "type": "object",
            "required": ["archive"],
            "properties": {
                "archive": {
                    "type": "string",
                    "contentMediaType": "application/octet-stream",
                    "description": "a .tar.gz, .tar or .zip, or a single source file",
                },
                "config": {"$ref": _REF.format(model="DeployConfig")},
            },
        }
        encoding = {"config": {"contentType": "application/json"}}
        content = {"multipart/form-data": {"schema": form, "encoding": encoding}, **content}
    return {"content": content}


def _answer(shape: type[BaseModel] | Media | None, refs: Refs) -> dict[str, Any]:
    if shape is None:
        return {"description": "Done; no content"}
    if isinstance(shape, type):
        about = (shape.__doc__ or "").partition("\n\n")[0]
        schema = refs[shape, "serialization"]
        return {
            "description": " ".join(about.split()),
            "content": {"application/json": {"schema": schema}},
        }
    line = {"schema": refs[shape.line, "serialization"]} if shape.line else {}
    return {"description": "As it is", "content": {shape.media_type: line}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer" if name == "number" else "string"},
        }
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {
            "name": query.name,
            "in": "query",
            "description": query.says,
            "schema": {"type": query.kind},
        }
        for query in endpoint.query
    ]


def _error_response() -> dict[str, Any]:
    schema = {"$ref": _REF.format(model="ErrorOut")}
    content = {"application/json": {"schema": schema}}
    return {"description": "An error", "content": content}


def _invocations() -> dict[str, dict[str, Any]]:
    """The two calls of the hot path, which is not made of routes."""
    error = {"$ref": "#/components/responses/Error"}
    event = "/v1/functions/{name}/invocations"
    qualifier = {
        "name": "qualifier",
        "in": "query",
        "description": "a version number or an alias; `latest` if not said",
        "schema": {"type": "string"},
    }
    json_content: dict[str, Any] = {"application/json": {}}
    paths: dict[str, dict[str, Any]] = {
        event: {
            "post": {
                "operationId": "invoke_function",
                "summary": "Invoke with a JSON event; without a body the event is {}",
                "parameters": [*_path_parameters(event), qualifier],
                "requestBody": {"content": json_content},
                "responses": {
                    "200": {"description": "What the handler returned", "content": json_content},
                    "default": error,
                },
            }
        }
    }
    for path in ("/function/{name}", "/function/{name}/{path}"):
        paths[path] = {
            method: {
                "operationId": f"{method}_{'path' if path.endswith('path}') else 'root'}",
                "summary": "Invoke with this HTTP request (Lambda's payload format 2.0)",
                "parameters": _path_parameters(path),
                "security": [{"key": []}, {}],
                "responses": {"default": {"description": "The function's own response"}},
            }
            for method in _HTTP_METHODS
        }
    return paths
