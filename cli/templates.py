"""What `hearth init` writes, for each language. `NAME` stands for the function's name."""

from __future__ import annotations

from collections.abc import Mapping

_GITIGNORE = """\
# What git ignores, `hearth deploy` leaves out too.
.env
.venv/
__pycache__/
node_modules/
"""

_MANIFEST = """\
# Every field: docs/functions.md. Flags of `hearth deploy` win over this file.
name = "NAME"
runtime = "{runtime}"
{handler}memory_mb = 128
timeout_s = 10

# exclude = ["tests/"]  # what deploy leaves here, as in .gitignore

# [env]
# GREETING = "Hello"
"""

_README = """\
# NAME

    hearth deploy .
    hearth invoke NAME --data '{"name": "Ada"}'
    hearth logs NAME

The same over HTTP, with the request's own path, method and query:

    hearth invoke NAME --path '/?name=Ada' --method GET

DEPENDENCIES
"""

_PYTHON = '''\
"""NAME: answers with a greeting."""

import os


def handler(event, context):
    """`hearth invoke` sends JSON, which is the event; a request to /function/NAME arrives as an
    HTTP event (AWS payload format 2.0). What is returned is the answer."""
    query = event.get("queryStringParameters") or {}
    name = query.get("name") or event.get("name") or "world"
    print(f"greeting {name}")  # see it with: hearth logs NAME
    return {"message": f"{os.environ.get('GREETING', 'Hello')}, {name}!"}
'''

_NODE = """\
// NAME: answers with a greeting.

// `hearth invoke` sends JSON, which is the event; a request to /function/NAME arrives as an
// HTTP event (AWS payload format 2.0). What is returned is the answer.
export const handler = async (event, context) => {
  const name = event.queryStringParameters?.name ?? event.name ?? "world";
  console.log(`greeting ${name}`); // see it with: hearth logs NAME
  return { message: `${process.env.GREETING ?? "Hello"}, ${name}!` };
};
"""

_DART = """\
// NAME: answers with a greeting.

import 'dart:io';

import 'package:hearth/hearth.dart'; // the build brings it

/// `hearth invoke` sends JSON, which is the event; a request to /function/NAME arrives as an
/// HTTP event (AWS payload format 2.0). What is returned is the answer.
Future<Object?> handler(Map<String, dynamic> event, Context context) async {
  final name = switch (event) {
    {'queryStringParameters': {'name': final String name}} => name,
    {'name': final String name} => name,
    _ => 'world',
  };
  print('greeting $name'); // see it with: hearth logs NAME
  return {'message': '${Platform.environment['GREETING'] ?? 'Hello'}, $name!'};
}
"""

_PUBSPEC = """\
name: {package}
publish_to: none
environment:
  sdk: ^3.0.0
"""

_BOOTSTRAP = """\
#!/bin/bash
# NAME: answers with a greeting. Any program that speaks AWS Lambda's Runtime API may be here: ask
# for an event, post the answer, again.
set -euo pipefail

api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"

while true; do
  # Waits until there is an event.
  curl --silent --show-error --dump-header /tmp/head --output /tmp/event "$api/next"
  id=$(sed -n 's/^lambda-runtime-aws-request-id: *\\([^[:space:]]*\\).*/\\1/Ip' /tmp/head)
  echo "request $id" # see it with: hearth logs NAME
  curl --silent --show-error --output /dev/null \\
    --data "{\\"message\\": \\"${GREETING:-Hello}, world!\\"}" "$api/$id/response"
done
"""

_DART_DEPENDENCIES = (
    "Packages: list them in `pubspec.yaml`. The build compiles the function, for which the node "
    "needs a Dart SDK\n(docs/custom-runtimes.md)."
)
_CUSTOM_DEPENDENCIES = "Packages: whatever `bootstrap` needs goes along; it must be executable."
_PYTHON_DEPENDENCIES = (
    "Packages: list them in `requirements.txt` (or `pyproject.toml`); the build installs them."
)
_NODE_DEPENDENCIES = (
    "Packages: `npm install --save …` writes `package.json` and its lock; the build installs them."
)


_HANDLER = 'handler = "main.handler"  # the file main{suffix}, its function handler\n'


def files_of(runtime: str, name: str) -> Mapping[str, str]:
    """The files of a new function, by path. What begins with #! is to be executable."""
    sources, suffix, dependencies = {
        "python": ({"main.py": _PYTHON}, ".py", _PYTHON_DEPENDENCIES),
        "node": ({"main.mjs": _NODE}, ".mjs", _NODE_DEPENDENCIES),
        "dart": ({"lib/main.dart": _DART, "pubspec.yaml": _PUBSPEC}, ".dart", _DART_DEPENDENCIES),
        "custom": ({"bootstrap": _BOOTSTRAP}, "", _CUSTOM_DEPENDENCIES),
    }[runtime]
    handler = _HANDLER.format(suffix=suffix) if suffix else ""
    package = "f_" + name.replace("-", "_")  # a word of Dart's own, or a digit, is no name
    written = {
        "hearth.toml": _MANIFEST.format(runtime=runtime, handler=handler),
        **{path: text.replace("{package}", package) for path, text in sources.items()},
        "README.md": _README.replace("DEPENDENCIES", dependencies),
        ".gitignore": _GITIGNORE,
    }
    return {path: text.replace("NAME", name) for path, text in written.items()}


RUNTIMES = ("python", "node", "dart", "custom")
