"""requirements.txt and pyproject.toml: what they name, and whether they say it exactly."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import BuildFailed
from core.limits import DEPENDENCY_FILES_MAX, REQUIREMENTS_MAX
from worker.dependencies import Found, Plan, inside, read, relative

REQUIREMENTS = "requirements.txt"
PROJECT = "pyproject.toml"

_COMMENT = re.compile(r"(^|\s)#.*$")
_NAMES_FILE = re.compile(r"(?:-r|-c|--requirement|--constraint)(?:\s*=?\s*)(?P<name>.+)")
_EDITABLE = re.compile(r"(?:-e|--editable)(?:\s*=?\s*)(?P<name>.+)")
_LINKS = re.compile(r"(?:-f|--find-links)(?:\s*=?\s*)(?P<name>.+)")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_REPOSITORY = re.compile(r"(?:[^@]*@\s*)?(?:git|hg|svn|bzr)\+[a-z+]+:", re.IGNORECASE)
_FILE_URL = re.compile(r"(?:^|[\s=@])file:", re.IGNORECASE)
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


def find(tree: Path) -> Found:
    """requirements.txt if it is there, else [project] dependencies of pyproject.toml."""
    if (tree / REQUIREMENTS).exists():
        return _from_requirements(tree)
    if (tree / PROJECT).exists():
        return _from_project(tree)
    return Found(None)


@dataclass(slots=True)
class _List:
    """What has been read so far of a requirements file and the files it names."""

    files: list[str] = field(default_factory=list)
    trees: list[str] = field(default_factory=list)
    lines: int = 0
    requirements: int = 0
    hashed: int = 0
    remote: bool = False  # names a list that lies elsewhere


def _from_requirements(tree: Path) -> Found:
    found = _List()
    _read_list(tree, REQUIREMENTS, found)
    if not found.requirements and not found.remote:
        return Found(None, (f"{REQUIREMENTS} lists nothing",))
    pinned = found.hashed == found.requirements and not found.remote
    return Found(
        Plan(
            kind="pip",
            says=REQUIREMENTS,
            files=tuple(found.files),
            trees=tuple(dict.fromkeys(found.trees)),
            pinned=pinned,
        )
    )


def _read_list(tree: Path, name: str, found: _List) -> None:
    if name in found.files:
        return  # lists may name each other
    if len(found.files) >= DEPENDENCY_FILES_MAX:
        raise BuildFailed(f"{REQUIREMENTS} leads to more than {DEPENDENCY_FILES_MAX} files")
    found.files.append(name)
    for line in _lines(read(tree, name)):
        found.lines += 1
        if found.lines > REQUIREMENTS_MAX:
            raise BuildFailed(f"{REQUIREMENTS} leads to more than {REQUIREMENTS_MAX:,} lines")
        _refuse_elsewhere(name, line)
        if editable := _EDITABLE.fullmatch(line):
            raise BuildFailed(
                f"{name}: -e links to a folder that will not be there when the function runs; "
                f"write {editable['name'].strip()} without -e"
            )
        if named := _NAMES_FILE.fullmatch(line):
            _read_named(tree, name, _unquoted(named["name"]), found)
        elif links := _LINKS.fullmatch(line):
            _add_local(tree, _unquoted(links["name"]), found)
        elif not line.startswith("-"):
            _read_requirement(tree, line, found)


def _refuse_elsewhere(name: str, line: str) -> None:
    """What pip takes and an installation does not have: programs for repositories, this host."""
    shown = re.sub(r"//[^/@]*@", "//***@", line[:120])
    if _REPOSITORY.match(line):
        raise BuildFailed(
            f"{name}: {shown}: there is no git where dependencies are installed; name a release, "
            "or an archive of the commit (package @ https:…/COMMIT.tar.gz)"
        )
    if _FILE_URL.search(line):
        raise BuildFailed(
            f"{name}: {shown}: a file: address means another machine there; put the file into "
            "the archive and name its path, like ./wheels/a.whl"
        )


def _read_named(tree: Path, by: str, name: str, found: _List) -> None:
    if _URL.match(name):
        found.remote = True
        return
    _read_list(tree, relative(name, to=str(Path(by).parent)), found)


def _read_requirement(tree: Path, line: str, found: _List) -> None:
    found.requirements += 1
    if "--hash" in line:
        found.hashed += 1
    wanted = re.split(r"\s+(?:--|;)|\s*;\s", line, maxsplit=1)[0].strip()
    wanted = re.sub(r"\[[^]]*\]$", "", wanted)
    if _URL.match(wanted) or "@" in wanted:
        return
    if wanted.startswith((".", "/")) or "/" in wanted or wanted.lower().endswith(_ARCHIVES):
        _add_local(tree, wanted, found)


def _add_local(tree: Path, name: str, found: _List) -> None:
    """A path in a requirement, which pip takes from the root wherever the list lies."""
    if _URL.match(name):
        return
    name = relative(name)
    kept = found.trees if inside(tree, name).is_dir() else found.files
    kept.append(name)


def _lines(text: str) -> Iterator[str]:
    """Logical lines: continued ones joined, comments and blank ones gone."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = _COMMENT.sub("", line).strip()
        if line:
            yield line


def _unquoted(text: str) -> str:
    try:
        return " ".join(shlex.split(text))
    except ValueError:
        return text.strip()


def _from_project(tree: Path) -> Found:
    try:
        project = tomllib.loads(read(tree, PROJECT))
    except tomllib.TOMLDecodeError as error:
        raise BuildFailed(f"{PROJECT} is not valid TOML: {error}") from None
    table = project.get("project", {})
    listed = table.get("dependencies", []) if isinstance(table, dict) else []
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise BuildFailed(f"{PROJECT}: project.dependencies must be a list of strings")
    if not listed:
        return Found(None, _why_nothing(project))
    return Found(
        Plan(
            kind="pip",
            says=f"{PROJECT}, project.dependencies",
            written={REQUIREMENTS: "".join(f"{item}\n" for item in _single_lines(listed))},
        )
    )


def _single_lines(listed: list[str]) -> Iterator[str]:
    """A dependency is a requirement, never an option or a second line of the list we write."""
    for item in listed:
        text = " ".join(item.split())
        if text.startswith("-"):
            raise BuildFailed(f"{PROJECT}: {text!r} is not a dependency")
        yield text


def _why_nothing(project: dict[str, Any]) -> tuple[str, ...]:
    """A hint for those whose dependencies stand where only another tool reads them."""
    table = project.get("project")
    if isinstance(table, dict) and "dependencies" in table.get("dynamic", []):
        return (f"{PROJECT} computes its dependencies: list them in {REQUIREMENTS} instead",)
    tools = project.get("tool")
    poetry = tools.get("poetry") if isinstance(tools, dict) else None
    if isinstance(poetry, dict) and set(poetry.get("dependencies", {})) - {"python"}:
        return (f"tool.poetry is not read: export it to {REQUIREMENTS} (poetry export)",)
    return ()
