"""What conformance tests ask of a Python function. cases.mjs does the same in JavaScript.

An event `{"do": name, …}` runs the case of that name; an HTTP event runs `http`.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LOADED = [0]  # how often this module was run: a second time would be a second list
LOADED[0] += 1
CALLS = [0]


def handler(event: Any, context: Any) -> Any:
    """Run the case that the event names."""
    CALLS[0] += 1
    if "requestContext" in event:
        return http(event)
    return CASES[event["do"]](event, context)


def http(event: Any) -> Any:
    """`/event` answers the event, `/as-told` what the body says, `/body` the body."""
    if event["rawPath"] == "/as-told":
        return json.loads(event["body"])
    if event["rawPath"] == "/body":
        return {
            "statusCode": 200,
            "headers": {"content-type": "application/octet-stream"},
            "body": event.get("body"),
            "isBase64Encoded": event["isBase64Encoded"],
        }
    return event


def environment(event: Any, context: Any) -> Any:
    """The environment and the working directory."""
    return {"env": dict(os.environ), "cwd": str(Path.cwd())}


def facts(event: Any, context: Any) -> Any:
    """What the context says."""
    return {
        "id": context.aws_request_id,
        "name": context.function_name,
        "version": context.function_version,
        "memory": context.memory_limit_in_mb,
        "arn": context.invoked_function_arn,
        "group": context.log_group_name,
        "stream": context.log_stream_name,
        "deadline": context.deadline,
        "remaining": context.get_remaining_time_in_millis(),
        "trace": context.traceparent,
    }


def write(event: Any, context: Any) -> Any:
    """Write to standard output and standard error in the language's own way."""
    sys.stdout.write(event.get("out", "") * event.get("times", 1))
    sys.stderr.write(event.get("err", ""))


def write_raw(event: Any, context: Any) -> Any:
    """Write bytes to descriptor 1, past the language's streams."""
    os.write(1, base64.b64decode(event["bytes"]))


def run(event: Any, context: Any) -> Any:
    """A subprocess that inherits descriptors 1 and 2, and whatever else leaks."""
    subprocess.run(event["command"], check=True, close_fds=False)


def fail(event: Any, context: Any) -> Any:
    """Raise."""
    raise ValueError(event["message"])


CASES = {
    "echo": lambda event, context: event["value"],
    "nothing": lambda event, context: None,
    "count": lambda event, context: [LOADED[0], CALLS[0]],
    "repeat": lambda event, context: "x" * event["times"],
    "later": lambda event, context: asyncio.sleep(0.001, event["value"]),
    "environment": environment,
    "facts": facts,
    "write": write,
    "write_raw": write_raw,
    "run": run,
    "fail": fail,
}
