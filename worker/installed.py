"""What an installation left, package by package, for the log and for whoever is over the limit.

The tree is as hostile as the code that wrote it: no link is followed, and what is read is bounded.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.errors import BuildFailed
from core.limits import (
    DEPENDENCIES_ENTRIES_MAX,
    KIB,
    MIB,
    PACKAGES_SHOWN_MAX,
    VERSION_BYTES_MAX,
)

PYTHON = (".hearth", "site-packages")
NODE = ("node_modules",)
_METADATA_BYTES_MAX = 1 * MIB  # read of one package's list of files
_NAME_LENGTH_MAX = 100


@dataclass(frozen=True, slots=True)
class Installed:
    """Sizes of unpacked files in bytes; `largest` are labels like `six 1.17.0`, largest first."""

    bytes: int = 0
    count: int = 0  # of packages
    largest: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(f"{label} ({_size(size)})" for label, size in self.largest)
        more = self.count - len(self.largest)
        return f"{shown} and {more} more" if more > 0 else shown


def look(layer: Path) -> Installed:
    """Find out what lies in a layer in the making."""
    sizes: dict[str, int] = {}
    packages: set[str] = set()
    for place, name_of in ((PYTHON, _python_names), (NODE, _node_names)):
        root = _real(layer, place)
        if root is None:
            continue
        owners = name_of(root)
        packages |= set(owners.values())
        for path in _children(root):
            label = owners.get(path.name, path.name)
            inner = [path] if label != path.name or path.name[:1] != "@" else _children(path)
            for one in inner:
                label = owners.get(one.relative_to(root).as_posix(), one.name)
                sizes[label] = sizes.get(label, 0) + _bytes(one)
    ranked = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    named = [(label, size) for label, size in ranked if label in packages or not packages]
    return Installed(_bytes(layer), len(packages), tuple(named[:PACKAGES_SHOWN_MAX]))


def check_size(code_bytes: int, installed: Installed) -> None:
    """BuildFailed when the version unpacks to more than a version may, naming the largest parts."""
    total = code_bytes + installed.bytes
    if total <= VERSION_BYTES_MAX:
        return
    parts = [f"{label} {_size(size)}" for label, size in installed.largest]
    parts.append(f"the code itself {_size(code_bytes)}")
    raise BuildFailed(
        f"the version is {_size(total)} unpacked, at most {_size(VERSION_BYTES_MAX)} are taken; "
        f"the largest: {', '.join(parts)}"
    )


def _size(count: int) -> str:
    if count < KIB:
        return f"{count} bytes"
    return f"{count / MIB:.1f} MiB" if count >= MIB / 10 else f"{count / KIB:.1f} KiB"


def _real(layer: Path, place: tuple[str, ...]) -> Path | None:
    """A directory below the layer that is reached through no link."""
    path = layer
    for part in place:
        path /= part
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                return None
        except OSError:
            return None
    return path


def _children(folder: Path) -> list[Path]:
    with suppress(OSError), os.scandir(folder) as found:
        return [folder / entry.name for entry in found]
    return []


def _bytes(path: Path) -> int:
    """What the plain files at and below a path hold."""
    total = seen = 0
    waiting = [path]
    while waiting and seen < DEPENDENCIES_ENTRIES_MAX:
        with suppress(OSError):
            here = waiting.pop()
            facts = here.lstat()
            seen += 1
            if stat.S_ISREG(facts.st_mode):
                total += facts.st_size
            elif stat.S_ISDIR(facts.st_mode):
                waiting += _children(here)
    return total


def _python_names(root: Path) -> dict[str, str]:
    """First part of a path in site-packages -> the package that brought it."""
    owners: dict[str, str] = {}
    for path in sorted(_children(root)):
        name, dash, version = path.name.removesuffix(".dist-info").rpartition("-")
        if not path.name.endswith(".dist-info") or not dash or path.is_symlink():
            continue
        label = _label(name, version)
        owners[path.name] = label
        for line in _text(path / "RECORD").splitlines():
            owners.setdefault(line.partition(",")[0].strip('"').partition("/")[0], label)
    for shared in ("", "..", "bin", "__pycache__"):
        owners.pop(shared, None)
    return owners


def _node_names(root: Path) -> dict[str, str]:
    """`name` or `@scope/name` in node_modules -> the same with its version."""
    return dict(_node_packages(root, ""))


def _node_packages(folder: Path, scope: str) -> Iterator[tuple[str, str]]:
    for path in sorted(_children(folder)):
        if path.is_symlink() or not path.is_dir() or path.name.startswith("."):
            continue
        if path.name.startswith("@") and not scope:
            yield from _node_packages(path, f"{path.name}/")
            continue
        name = f"{scope}{path.name}"
        with suppress(ValueError, RecursionError):
            told = json.loads(_text(path / "package.json"))
            version = told.get("version") if isinstance(told, dict) else None
            yield name, _label(name, version if isinstance(version, str) else "")


def _label(name: str, version: str) -> str:
    text = f"{name} {version}".strip()[:_NAME_LENGTH_MAX]
    return text if text.isprintable() else ascii(text)


def _text(path: Path) -> str:
    """The beginning of a plain file; nothing of anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return (file.read(_METADATA_BYTES_MAX) or b"").decode(errors="replace")
