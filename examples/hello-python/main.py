"""Greets whoever calls: an ordinary AWS Lambda handler, unchanged."""

import json
import logging

logging.getLogger().setLevel(logging.INFO)
log = logging.getLogger("hello")


def handler(event, context):
    """The name comes as JSON ({"name": "Ada"}), or as ?name= when called over HTTP."""
    name = _name(event)
    log.info("greeting %s, request %s", name, context.aws_request_id)
    return {
        "message": f"Hello, {name}!",
        "function": context.function_name,
        "version": context.function_version,
    }


def _name(event):
    query = event.get("queryStringParameters") or {}
    if "name" in query:
        return query["name"]
    if event.get("body"):  # a POST to /function/hello-python
        return json.loads(event["body"]).get("name", "world")
    return event.get("name", "world")
