"""What a function asks to have installed: found in its files, before anything is run.

A plan names every file that the installation may see. Exactly those are copied for it, so what
the cache key covers and what can change the result are the same set. docs/dependencies.md tells
users the rules.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from core.errors import BuildFailed
from core.limits import (
    DEPENDENCY_FILES_BYTES_MAX,
    DEPENDENCY_FILES_MAX,
    DEPENDENCY_LIST_BYTES_MAX,
)

Kind = Literal["pip", "npm-ci", "npm-install", "dart"]


@dataclass(frozen=True, slots=True)
class Plan:
    """One installation. Paths are relative to the function's root, with forward slashes."""

    kind: Kind
    says: str  # for the build log: where the list came from
    files: tuple[str, ...] = ()  # single files that the installation may see
    trees: tuple[str, ...] = ()  # directories likewise, with all that is in them but node_modules
    written: Mapping[str, str] = field(default_factory=dict)  # files that we write ourselves
    pinned: bool = False  # the same list gives the same packages for ever


@dataclass(frozen=True, slots=True)
class Found:
    """A plan, or none because there is nothing to install; notes are for the build log."""

    plan: Plan | None
    notes: tuple[str, ...] = ()


def stage(tree: Path, plan: Plan, to: Path) -> str:
    """Copy what the plan names, and nothing else, to the new directory `to`.

    Returns a digest of all of it: names, contents, which files are executable. BuildFailed when it
    is more than a list of dependencies may be."""
    to.mkdir()
    for name in plan.trees:
        _copy_tree(inside(tree, name), to / name)
    for name in plan.files:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inside(tree, name), target)
    for name, text in plan.written.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_text(text)
    _open_to_readers(to)
    return _digest(to)


def key(namespace: str, images: Sequence[str], plan: Plan, staged: str, index: str) -> str:
    """What an installation's result depends on, as one name. Never equal over two namespaces.

    `images` are the ids of the runtime's and the builder's image, `staged` what `stage` returned,
    `index` everything that says where packages come from."""
    facts = [namespace, list(images), plan.kind, staged, index, _FORMAT]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


_FORMAT = 1  # of a layer; raise it when what is installed for the same facts changes


def inside(tree: Path, name: str) -> Path:
    """The real path of `name` in the tree. BuildFailed when it is not there, or leads out of it."""
    root = tree.resolve()
    path = Path(os.path.normpath(root / name))
    if not path.is_relative_to(root) or not path.resolve().is_relative_to(root):
        raise BuildFailed(f"{name} is outside of the function's own files")
    if not path.exists():
        raise BuildFailed(f"{name} is named by the list of dependencies but is not in the archive")
    return path.resolve()


def relative(name: str, *, to: str = "") -> str:
    """A path as named in a file of directory `to`, as a path from the root."""
    return os.path.normpath(os.path.join(to, name)).replace(os.sep, "/")


def read(tree: Path, name: str) -> str:
    """The text of one of the function's files, with the first bytes some editors leave removed."""
    path = inside(tree, name)
    if not path.is_file():
        raise BuildFailed(f"{name} is not a file")
    check_size(path, name, DEPENDENCY_LIST_BYTES_MAX)
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise BuildFailed(f"{name} is not UTF-8 text") from None


def check_size(path: Path, name: str, bytes_max: int) -> None:
    """BuildFailed when a file is larger than its kind may be."""
    size = path.stat().st_size
    if size > bytes_max:
        raise BuildFailed(f"{name} has {size:,} bytes, at most {bytes_max:,} are taken")


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(
        source,
        target,
        symlinks=True,
        ignore=shutil.ignore_patterns("node_modules"),
        dirs_exist_ok=True,
    )


def _open_to_readers(root: Path) -> None:
    """Whatever this process's umask is: the container reads it as another user."""
    for folder, _, files in os.walk(root):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _digest(root: Path) -> str:
    whole = hashlib.sha256()
    files = left = 0
    for path in _walk(root):
        facts = path.lstat()
        files, left = files + 1, left + facts.st_size
        if files > DEPENDENCY_FILES_MAX or left > DEPENDENCY_FILES_BYTES_MAX:
            raise BuildFailed(
                f"the dependencies' own files are more than {DEPENDENCY_FILES_MAX} files or "
                f"{DEPENDENCY_FILES_BYTES_MAX >> 20} MiB"
            )
        if path.is_symlink():
            kind, content = "link", os.fsencode(path.readlink())
        else:
            kind = "program" if facts.st_mode & 0o100 else "file"
            content = path.read_bytes()
        name = str(path.relative_to(root))
        whole.update(json.dumps([kind, name, hashlib.sha256(content).hexdigest()]).encode())
    return whole.hexdigest()


def _walk(root: Path) -> Iterator[Path]:
    """Every file and link below `root`, in an order that depends on the names alone."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted(files + links):
            yield Path(folder, name)
