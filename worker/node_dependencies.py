"""package.json and its lock: what they name, and what comes from the function's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.errors import BuildFailed
from core.limits import DEPENDENCY_FILES_MAX, DEPENDENCY_LOCK_BYTES_MAX
from worker.dependencies import Found, Plan, check_size, inside, read, relative

PACKAGE = "package.json"
LOCKS = ("npm-shrinkwrap.json", "package-lock.json")  # npm reads the first that is there
SHIPPED = "node_modules"
SETTINGS = ".npmrc"

_LISTS = ("dependencies", "optionalDependencies", "peerDependencies")
_FOREIGN_LOCKS = ("yarn.lock", "pnpm-lock.yaml", "bun.lock", "bun.lockb")


def find(tree: Path) -> Found:
    """package.json's dependencies, exactly as locked if there is a lock."""
    if not (tree / PACKAGE).exists():
        return Found(None)
    package = _package(tree, PACKAGE)
    if not any(package.get(name) for name in (*_LISTS, "workspaces")):
        return Found(None)
    if (tree / SHIPPED).is_dir():
        return Found(None, (f"{SHIPPED} came with the code and is used as it is",))
    lock = next((name for name in LOCKS if (tree / name).exists()), None)
    if lock:
        check_size(inside(tree, lock), lock, DEPENDENCY_LOCK_BYTES_MAX)
    return Found(_plan(tree, package, lock), _notes(tree, lock))


def _plan(tree: Path, package: dict[str, Any], lock: str | None) -> Plan:
    files = [name for name in (lock, SETTINGS) if name and (tree / name).exists()]
    trees = ["."] if package.get("workspaces") else _local_trees(tree, package)
    # The project's own scripts would run without its sources (prepare: husky and the like), and
    # every edit of them would install everything anew. Scripts of packages do run. Development
    # dependencies are looked up even when they are left out; only a lock must agree with them.
    unwanted = {"scripts"} if lock else {"scripts", "devDependencies"}
    alone = {name: value for name, value in package.items() if name not in unwanted}
    archives = [name for name in trees if not inside(tree, name).is_dir()]
    return Plan(
        kind="npm-ci" if lock else "npm-install",
        says=f"{PACKAGE} and {lock}" if lock else PACKAGE,
        files=(*files, *archives),
        trees=tuple(name for name in trees if name not in archives),
        written={PACKAGE: json.dumps(alone, indent=2)},
        pinned=lock is not None,
    )


def _notes(tree: Path, lock: str | None) -> tuple[str, ...]:
    foreign = [name for name in _FOREIGN_LOCKS if (tree / name).exists()]
    if lock or not foreign:
        return ()
    return (f"{foreign[0]} is not read; npm chooses versions by {PACKAGE} alone",)


def _package(tree: Path, name: str) -> dict[str, Any]:
    try:
        package = json.loads(read(tree, name))
    except (ValueError, RecursionError) as error:
        raise BuildFailed(f"{name} is not valid JSON: {error}") from None
    if not isinstance(package, dict):
        raise BuildFailed(f"{name} is not a JSON object")
    for listed in _LISTS:
        if not isinstance(package.get(listed, {}), dict):
            raise BuildFailed(f"{name}: {listed} must be an object")
    return package


def _local_trees(tree: Path, package: dict[str, Any]) -> list[str]:
    """Directories and archives of the function that are packages, and those that they name."""
    found: list[str] = []
    waiting = [(package, "")]
    while waiting:
        package, folder = waiting.pop()
        for listed in _LISTS:
            for wanted in package.get(listed, {}).values():
                name = _local(wanted, folder)
                if name is None or name in found:
                    continue
                if len(found) >= DEPENDENCY_FILES_MAX:
                    raise BuildFailed(f"{PACKAGE} leads to more than {DEPENDENCY_FILES_MAX} files")
                found.append(name)
                if (inside(tree, name) / PACKAGE).exists():
                    waiting.append((_package(tree, f"{name}/{PACKAGE}"), name))
    return found


def _local(wanted: Any, folder: str) -> str | None:
    """The path that a dependency's value names; None for one that the registry has."""
    if not isinstance(wanted, str):
        return None
    for start in ("file:", "link:"):
        if wanted.startswith(start):
            return relative(wanted.removeprefix(start), to=folder)
    if wanted.startswith(("./", "../", "/", "~/")):
        return relative(wanted, to=folder)
    return None
