"""What `hearth deploy` is given: its name, its runtime, and how it becomes an upload."""

from __future__ import annotations

import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cli.failures import CliError, usage
from cli.pack import pack
from core.errors import NameInvalid
from core.limits import MANIFEST_BYTES_MAX
from core.model import check_name
from core.packing import FIELDS, check_patterns

MANIFEST = "hearth.toml"
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
RUNTIME_OF_SUFFIX = {
    ".py": "python",
    ".mjs": "node",
    ".js": "node",
    ".dart": "dart",
    ".wasm": "wasm",
}
# Files in the root that tell the language, when nothing says it outright.
SIGNS = {
    "python": ("main.py", "requirements.txt", "pyproject.toml", "lambda_function.py"),
    "node": ("main.mjs", "main.js", "package.json", "index.mjs", "index.js"),
    "dart": ("pubspec.yaml", "main.dart"),
    "custom": ("bootstrap",),
    "wasm": ("main.wasm",),
}
SPOOL_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Project:
    """Something that can be deployed."""

    path: Path
    name: str
    runtime: str | None  # None: the manifest says it, or the platform finds out
    note: str = ""  # what was guessed, for a person to read


@dataclass(frozen=True, slots=True)
class Upload:
    """The bytes to send. `digest` is of the archive, where this side made it."""

    file: IO[bytes]
    filename: str
    size: int
    files: int | None  # how many it holds, where this side made it
    digest: str | None
    hints: tuple[str, ...] = ()


def open_project(path: Path, *, name: str | None, runtime: str | None) -> Project:
    """Find out what `path` is. CliError says what is missing and how to add it."""
    if not path.exists():
        raise usage(f"{path} does not exist", "hearth init NAME makes a new function here")
    path = path.resolve()
    if path.is_dir():
        return _directory(path, name, runtime)
    if path.suffix in RUNTIME_OF_SUFFIX:
        runtime = runtime or RUNTIME_OF_SUFFIX[path.suffix]
        return Project(path, _name(name, path.stem), runtime, f"{runtime}, one file")
    for suffix in ARCHIVE_SUFFIXES:
        if path.name.endswith(suffix):
            return Project(path, _name(name, path.name.removesuffix(suffix)), runtime)
    kinds = ", ".join((*RUNTIME_OF_SUFFIX, *ARCHIVE_SUFFIXES))
    raise usage(f"{path.name} cannot be deployed", f"give a directory or a file of {kinds}")


def _directory(path: Path, name: str | None, runtime: str | None) -> Project:
    manifest = read_manifest(path)
    said = manifest.get("name")
    if said is not None and not isinstance(said, str):
        raise usage(f"name in {MANIFEST} must be text")
    chosen = _name(name or said, path.name)
    if runtime or "runtime" in manifest:
        return Project(path, chosen, runtime)
    guessed, because = _detect(path)
    return Project(path, chosen, guessed, f"runtime {guessed}, because of {because}")


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The directory's hearth.toml; empty when it has none."""
    file = folder / MANIFEST
    if not file.is_file():
        return {}
    if file.stat().st_size > MANIFEST_BYTES_MAX:
        raise usage(f"{file} is over {MANIFEST_BYTES_MAX} bytes")
    try:
        return tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise usage(f"{file} is not TOML: {problem}") from None


def _patterns(manifest: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """`include` and `exclude`, checked."""
    found: list[list[str]] = []
    for name in FIELDS:
        patterns = manifest.get(name, [])
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise usage(f"{name} in {MANIFEST} must be a list of patterns")
        try:
            check_patterns(patterns)
        except ValueError as problem:
            raise usage(f"{name} in {MANIFEST}: {problem}") from None
        found.append(patterns)
    include, exclude = found
    return include, exclude


def _detect(path: Path) -> tuple[str, str]:
    found = {
        runtime: [sign for sign in signs if (path / sign).is_file()]
        for runtime, signs in SIGNS.items()
    }
    named = {runtime: signs for runtime, signs in found.items() if signs}
    if len(named) == 1:
        runtime, signs = next(iter(named.items()))
        return runtime, signs[0]
    if named:
        both = " and ".join(signs[0] for signs in named.values())
        message = f"{path.name} has {both}: is it {' or '.join(named)}?"
    else:
        message = f"nothing in {path} tells its language"
    hint = f'say it with --runtime {"|".join(SIGNS)}, or in {MANIFEST}: runtime = "python"'
    raise usage(message, hint)


def _name(said: str | None, found: str) -> str:
    try:
        return check_name(said or as_name(found), what="function")
    except NameInvalid as problem:
        hint = "choose one with --name" if said is None else ""
        raise usage(problem.message, hint) from None


def as_name(text: str) -> str:
    """The nearest legal name: `My_Function` is `my-function`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-")


def open_upload(project: Project) -> Upload:
    """Pack a directory, or open the file as it is. The caller closes `file`."""
    if not project.path.is_dir():
        file = project.path.open("rb")
        return Upload(file, project.path.name, project.path.stat().st_size, None, None)
    # Unnamed and beyond memory's reach when it is large; gone with the process.
    spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - the caller closes
    try:
        packed = pack(project.path, spool, *_patterns(read_manifest(project.path)))
    except BaseException:
        spool.close()
        raise
    if not packed.files:
        spool.close()
        raise CliError(f"{project.path} holds no file that .gitignore and {MANIFEST} leave in")
    spool.seek(0)
    hints = [f"left out, not a file: {name}" for name in packed.left_out]
    hints += [f"{name} stays here: the build installs it from its lock" for name in packed.modules]
    if any(name.startswith("node_modules/") for name in packed.files):
        hints.append("node_modules is shipped as it is; excluded, the build installs it")
    return Upload(
        spool,
        "function.tar.gz",
        packed.archive_bytes,
        len(packed.files),
        packed.digest,
        tuple(hints),
    )
