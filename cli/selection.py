"""Which files of a directory are packed: what .gitignore leaves in and `include` brings back, less
what `exclude` takes out, what is never code, and what the build installs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from cli.ignore import Rules, last_word, parse

# Never part of a function, whatever .gitignore or hearth.toml say.
ALWAYS_LEFT_OUT = frozenset(
    {".git", ".hg", ".svn", ".venv", ".hearth", "__pycache__", ".mypy_cache", ".ruff_cache"}
    | {".pytest_cache", ".DS_Store"}
)
MODULES = "node_modules"
LOCKS = ("npm-shrinkwrap.json", "package-lock.json")  # what lies beside one is installed anew
_MANIFEST = "hearth.toml"
_WILD = frozenset("*?[\\")


class Fate(Enum):
    """What becomes of a path, and of what lies below it unless something else is said there."""

    BY_RULES = "in, as far as .gitignore goes"
    TAKEN = "in, because of include"
    LEFT = "out"


class Selection:
    """Decides path by path, from the root down. `modules`: the node_modules left to the build."""

    def __init__(self, root: Path, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._root = root
        self._rules = Rules(root)
        self._include = list(parse(include))
        self._exclude = list(parse(exclude))
        # What a pattern's path begins with, as far as it is plain; nothing for one that floats.
        self._starts = [_plain_start(text) for text in include if not text.startswith("!")]
        self.modules: list[str] = []

    def enter(self, folder: Path) -> None:
        """Take in the folder's own .gitignore."""
        self._rules.enter(folder)

    def fate(self, path: Path, is_folder: bool, above: Fate) -> Fate | None:
        """Of a path whose parent's is `above`. None: neither it nor anything below it goes in."""
        if path.name in ALWAYS_LEFT_OUT or (is_folder and (path / "pyvenv.cfg").exists()):
            return None
        shown = path.relative_to(self._root).as_posix()
        if shown != _MANIFEST and last_word(self._exclude, shown, is_folder):
            return None
        fate = self._ruled(path, shown, is_folder, above)
        if fate is not Fate.LEFT or (is_folder and self._may_bring_back(shown)):
            return fate
        return None

    def _ruled(self, path: Path, shown: str, is_folder: bool, above: Fate) -> Fate:
        said = last_word(self._include, shown, is_folder)
        if said is not None:
            return Fate.TAKEN if said else Fate.LEFT
        if above is not Fate.BY_RULES:
            return above
        if self._rules.ignore(path, is_folder):
            return Fate.LEFT
        locks = (path.parent / lock for lock in LOCKS)
        if path.name == MODULES and is_folder and any(lock.is_file() for lock in locks):
            self.modules.append(shown)
            return Fate.LEFT
        return Fate.BY_RULES

    def _may_bring_back(self, folder: str) -> bool:
        """Whether a pattern of `include` can match below a folder that is left out."""
        parts = folder.split("/")
        return any(
            all(a == b for a, b in zip(parts, start, strict=False)) for start in self._starts
        )


def _plain_start(pattern: str) -> list[str]:
    bare = pattern.strip().rstrip("/")
    if "/" not in bare:
        return []
    start: list[str] = []
    for part in bare.lstrip("/").split("/"):
        if _WILD & set(part):
            break
        start.append(part)
    return start
