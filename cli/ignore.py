"""What .gitignore leaves out, as git itself decides it; the same lines say `include`, `exclude`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

# The group of pathspec's expressions that matches the slash behind a directory.
_DIRECTORY_MARK = "ps_d"


class Rules:
    """The .gitignore files in force: those of the tree, and those above it in the same repository.

    As in git, a deeper file overrides one above it, the last line that matches decides, and a
    directory that is ignored is not looked into."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[Path, list[Line]] = {}
        for folder in _above(self._root):
            self.enter(folder)
        if self._ignores_root():
            # Somebody deploys a directory that git itself leaves out, such as a build's output.
            self._files.clear()

    def enter(self, folder: Path) -> None:
        """Take in the folder's own .gitignore."""
        file = folder / ".gitignore"
        if folder not in self._files and file.is_file():
            self._files[folder] = list(_read(file))

    def ignore(self, path: Path, is_folder: bool) -> bool:
        """Whether the rules leave this path out; its parents are known to be in."""
        for folder in path.parents:
            if lines := self._files.get(folder):
                shown = path.relative_to(folder).as_posix()
                if (said := last_word(lines, shown, is_folder)) is not None:
                    return said
        return False

    def _ignores_root(self) -> bool:
        outermost = next(iter(self._files), None)
        if outermost is None:
            return False
        chain = [self._root, *self._root.parents]
        below = chain[: chain.index(outermost)]
        return any(self.ignore(folder, True) for folder in reversed(below))


@dataclass(frozen=True, slots=True)
class Line:
    """One line that means something."""

    pattern: re.Pattern[str]
    anchored: bool  # has a slash inside: compared with the whole path, else with the last part
    for_folders: bool  # has a slash at its end
    ignores: bool  # False for a line that begins with `!`

    def matches(self, path: str, is_folder: bool) -> bool:
        """Whether it speaks of this very path: pathspec also matches what lies below."""
        if self.for_folders and not is_folder:
            return False
        found = self.pattern.search(path if self.anchored else path.rpartition("/")[2])
        return found is not None and found.groupdict().get(_DIRECTORY_MARK) is None


def _read(file: Path) -> Iterator[Line]:
    return parse(file.read_text(errors="replace").splitlines())


def parse(texts: Iterable[str]) -> Iterator[Line]:
    """Those of them that mean something."""
    for text in texts:
        line = text if text.endswith("\\ ") else text.rstrip()
        bare = line.rstrip("/")
        try:
            pattern = GitIgnoreSpecPattern(bare)
        except ValueError:  # git passes over what is no pattern
            continue
        if pattern.include is not None and pattern.regex is not None:
            yield Line(pattern.regex, "/" in bare, bare != line, pattern.include)


def last_word(lines: Sequence[Line], path: str, is_folder: bool) -> bool | None:
    """What the last line that matches says: True for one without `!`. None when no line does."""
    for line in reversed(lines):
        if line.matches(path, is_folder):
            return line.ignores
    return None


def _above(root: Path) -> list[Path]:
    """The folders above `root` up to the one that holds .git, outermost first."""
    if (root / ".git").exists():
        return []
    for depth, folder in enumerate(root.parents):
        if (folder / ".git").exists():
            return list(reversed(root.parents[: depth + 1]))
    return []
