"""The style as a test: how long a function, a file and a line may be, and what no file may hold.

A listed exception may shrink (then its number here shrinks too) and never grow.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    *("core", "runtimes", "executor", "catalog", "events", "storage", "gateway", "worker", "cli"),
    *("bench", "tests", "infra", "examples"),
)
KINDS = {".py", ".sh", ".mjs", ".js", ".cjs"}
NAMED = {"Makefile", "Containerfile", "run"}

BODY_LINES_MAX = 40
FILE_LINES_MAX = 400
LINE_LENGTH_MAX = 100
TEST_WORDS_MIN = 2  # a test's name is a sentence

# path::function -> lines of its body, and path -> lines. Empty is the goal.
LONG_BODIES: dict[str, int] = {}
LONG_FILES: dict[str, int] = {}

FORBIDDEN = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|HA" r"CK)\b")
ADDRESS = re.compile(r"://|--index-url|--extra-index|--find-links|\s@\s")
LOCKS = sorted([*ROOT.glob("infra/*.lock"), *ROOT.glob("runtimes/*/*.lock")])


def _sources() -> list[Path]:
    below = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    above = [ROOT / "Makefile", ROOT / ".ci" / "run"]
    return [p for p in [*below, *above] if p.is_file() and (p.suffix in KINDS or p.name in NAMED)]


SOURCES = [p for p in _sources() if not {"node_modules", "__pycache__"} & set(p.parts)]
MODULES = [path for path in SOURCES if path.suffix == ".py"]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _functions(tree: ast.AST, at: str) -> Iterator[tuple[str, int]]:
    """Every function's name and the lines of its body, without its docstring."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{at}{node.name}", _body_lines(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _functions(node, f"{at}{node.name}.")
        else:
            yield from _functions(node, at)


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    has_docstring = ast.get_docstring(node, clean=False) is not None
    body = node.body[1:] if has_docstring else node.body
    if not body:
        return 0
    decorators: list[ast.expr] = getattr(body[0], "decorator_list", [])
    first = min([body[0].lineno, *(part.lineno for part in decorators)])
    return (body[-1].end_lineno or first) - first + 1


def _bodies() -> dict[str, int]:
    found = {}
    for path in MODULES:
        tree = ast.parse(path.read_text(), filename=str(path))
        for name, lines in _functions(tree, ""):
            found[f"{_name(path)}::{name}"] = lines
    return found


def _beyond(found: dict[str, int], most: int, listed: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in found.items() if size > listed.get(name, most)}


def _stale(found: dict[str, int], most: int, listed: dict[str, int]) -> dict[str, int]:
    """Exceptions that are larger than what they except: to be lowered, or taken out."""
    return {
        name: size
        for name, size in listed.items()
        if found.get(name, 0) < size or found.get(name, 0) <= most
    }


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 50
    assert ROOT / "core" / "model.py" in MODULES
    assert ROOT / "runtimes" / "python" / "Containerfile" in SOURCES
    assert len(LOCKS) >= 4


def test_function_bodies_fit_on_a_screen() -> None:
    assert _beyond(_bodies(), BODY_LINES_MAX, LONG_BODIES) == {}
    assert _stale(_bodies(), BODY_LINES_MAX, LONG_BODIES) == {}


def test_files_are_short() -> None:
    found = {_name(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert _beyond(found, FILE_LINES_MAX, LONG_FILES) == {}
    assert _stale(found, FILE_LINES_MAX, LONG_FILES) == {}


def test_lines_are_short() -> None:
    long = [
        f"{_name(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LINE_LENGTH_MAX
    ]
    assert long == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        _name(path)
        for path in MODULES
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_nothing_is_left_for_later() -> None:
    left = [
        f"{_name(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert left == []


def test_the_names_of_tests_are_sentences() -> None:
    found = [re.split(r"::|\.", name)[-1] for name in _bodies() if name.startswith("tests/")]
    names = [name.removeprefix("test_") for name in found if name.startswith("test_")]
    assert len(names) > 50
    assert [name for name in names if name.count("_") + 1 < TEST_WORDS_MIN] == []


@pytest.mark.parametrize("lock", LOCKS, ids=_name)
def test_a_lock_file_has_a_hash_for_everything_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert not ADDRESS.search(text)
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert [e.split()[0] for e in entries if not re.match(r"[\w.-]+==\S+", e)] == []
    assert [e.split()[0] for e in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", e)] == []


def test_the_two_locks_agree() -> None:
    def versions(name: str) -> set[str]:
        text = (ROOT / "infra" / name).read_text()
        return set(re.findall(r"^([\w.-]+==[^\s;\\]+)", text, re.MULTILINE))

    assert versions("requirements.lock") <= versions("requirements-dev.lock")
