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
handler = "main.handler"  # the file main{suffix}, its function handler
memory_mb = 128
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

_PYTHON_DEPENDENCIES = (
    "Packages: list them in `requirements.txt` (or `pyproject.toml`); the build installs them."
)
_NODE_DEPENDENCIES = (
    "Packages: `npm install --save …` writes `package.json` and its lock; the build installs them."
)


def files_of(runtime: str, name: str) -> Mapping[str, str]:
    """The files of a new function, by path."""
    python = runtime == "python"
    suffix = ".py" if python else ".mjs"
    dependencies = _PYTHON_DEPENDENCIES if python else _NODE_DEPENDENCIES
    written = {
        "hearth.toml": _MANIFEST.format(runtime=runtime, suffix=suffix),
        f"main{suffix}": _PYTHON if python else _NODE,
        "README.md": _README.replace("DEPENDENCIES", dependencies),
        ".gitignore": _GITIGNORE,
    }
    return {path: text.replace("NAME", name) for path, text in written.items()}


RUNTIMES = ("python", "node")
