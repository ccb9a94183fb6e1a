"""Packing a directory: what goes in, and that the same tree always gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

import pytest

from cli.failures import CliError
from cli.pack import Packed, pack
from cli.project import open_project, open_upload
from core.packing import check_patterns


def make(root: Path, *names: str, **texts: str) -> None:
    """Files below `root`; those by keyword hold that text (`_` stands for the dot)."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for name, text in texts.items():
        (root / name.replace("_", ".")).write_text(text)


def packed(root: Path, *patterns: Sequence[str]) -> tuple[Packed, bytes]:
    """Pack into memory."""
    into = io.BytesIO()
    facts = pack(root, into, *patterns)
    return facts, into.getvalue()


def names(root: Path, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> set[str]:
    """What goes in."""
    return set(packed(root, include, exclude)[0].files)


def test_a_directory_is_packed_with_its_files_and_their_content(tmp_path: Path) -> None:
    make(tmp_path, "main.py", "lib/deep/er.py", "ünicode.txt")
    facts, data = packed(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        content = {m.name: cast(IO[bytes], archive.extractfile(m)).read().decode() for m in archive}
    assert content == {n: n for n in ("main.py", "lib/deep/er.py", "ünicode.txt")}
    assert facts.digest == hashlib.sha256(data).hexdigest()
    assert facts.archive_bytes == len(data)


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    make(first, "a.py", "b/c.py", "b/d.py")
    make(second, "b/d.py", "b/c.py", "a.py")
    for path in second.rglob("*.py"):
        os.utime(path, (1, 1))
    (second / "a.py").chmod(0o600)
    assert packed(first)[1] == packed(second)[1]


def test_another_byte_gives_another_digest(tmp_path: Path) -> None:
    make(tmp_path, "a.py")
    before = packed(tmp_path)[0].digest
    make(tmp_path, a_py="other")
    assert packed(tmp_path)[0].digest != before


def test_only_the_executable_bit_survives(tmp_path: Path) -> None:
    make(tmp_path, "plain", "tool")
    (tmp_path / "plain").chmod(0o666)
    (tmp_path / "tool").chmod(0o4775)
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path)[1])) as archive:
        members = {m.name: m for m in archive}
    assert members["plain"].mode == 0o644
    assert members["tool"].mode == 0o755
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members.values()} == {(0, 0, "", 0)}


def test_hard_links_become_files_of_their_own(tmp_path: Path) -> None:
    make(tmp_path, "one")
    os.link(tmp_path / "one", tmp_path / "two")
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path)[1])) as archive:
        assert all(member.isreg() for member in archive)


def test_what_is_never_code_stays_out(tmp_path: Path) -> None:
    make(tmp_path, "main.py", ".git/config", ".hearth/admin.key", ".venv/bin/python")
    make(tmp_path, "lib/__pycache__/x.pyc", "myenv/pyvenv.cfg", "myenv/lib/x.py", ".env")
    assert names(tmp_path) == {"main.py", ".env"}


def test_node_modules_stay_in_unless_ignored(tmp_path: Path) -> None:
    make(tmp_path, "main.mjs", "node_modules/a/index.js")
    assert "node_modules/a/index.js" in names(tmp_path)
    make(tmp_path, _gitignore="node_modules/\n")
    assert names(tmp_path) == {"main.mjs", ".gitignore"}


def test_node_modules_beside_a_lock_are_left_to_the_build(tmp_path: Path) -> None:
    make(tmp_path, "main.mjs", "package-lock.json", "node_modules/a/index.js", "libs/b/main.mjs")
    make(tmp_path, "libs/b/node_modules/c/index.js")
    facts, _ = packed(tmp_path)
    assert "node_modules/a/index.js" not in facts.files
    assert "libs/b/node_modules/c/index.js" in facts.files
    assert facts.modules == ("node_modules",)
    assert "node_modules/a/index.js" in names(tmp_path, include=["/node_modules/"])


# --- include and exclude


@pytest.mark.parametrize(
    ("exclude", "stays"),
    [
        (["tests/"], {"main.py", "a/b/c.txt", "a/b/keep.txt", "notes.md"}),
        (["*.md", "*.txt"], {"main.py", "tests/t.py", "a/tests/u.py"}),
        (["/tests/"], {"main.py", "a/tests/u.py", "a/b/c.txt", "a/b/keep.txt", "notes.md"}),
        (["a/**"], {"main.py", "tests/t.py", "notes.md"}),
        (["a/**/*.txt", "!a/b/keep.txt", "tests"], {"main.py", "a/b/keep.txt", "notes.md"}),
        (["*", "!*.py"], {"main.py"}),
        (["?ain.py", "[t]ests", "a", "n*"], set()),
    ],
)
def test_what_exclude_names_stays_out(tmp_path: Path, exclude: list[str], stays: set[str]) -> None:
    make(tmp_path, "main.py", "tests/t.py", "a/tests/u.py", "a/b/c.txt", "a/b/keep.txt", "notes.md")
    make(tmp_path, "hearth.toml")
    assert names(tmp_path, exclude=exclude) == stays | {"hearth.toml"}


@pytest.mark.parametrize(
    ("include", "back"),
    [
        (["dist/"], {"dist/js/a.js", "dist/js/a.js.map", "dist/b.css"}),
        (["dist/js"], {"dist/js/a.js", "dist/js/a.js.map"}),
        (["dist/**/*.js"], {"dist/js/a.js"}),
        (["dist/", "!*.map"], {"dist/js/a.js", "dist/b.css"}),
        (["*.css"], {"dist/b.css", "deep/er/dist/c.css"}),
        (["/secret.txt"], {"secret.txt"}),
        (["nothing/like/it"], set()),
    ],
)
def test_include_brings_back_what_gitignore_leaves_out(
    tmp_path: Path, include: list[str], back: set[str]
) -> None:
    make(tmp_path, "main.py", "dist/js/a.js", "dist/js/a.js.map", "dist/b.css", "secret.txt")
    make(tmp_path, "deep/er/dist/c.css", ".git/dist/x.css", "dist/__pycache__/y.css")
    make(tmp_path, _gitignore="dist\nsecret.txt\n*.map\n")
    assert names(tmp_path, include=include) == back | {"main.py", ".gitignore"} | (
        {"deep/er/dist/c.css"} if "dist/" in include else set()
    )


def test_exclude_goes_before_include_and_neither_brings_in_what_is_never_code(
    tmp_path: Path,
) -> None:
    make(tmp_path, "main.py", "dist/a.js", "dist/b.js", ".git/config", "env/pyvenv.cfg")
    make(tmp_path, _gitignore="dist\n")
    chosen = names(tmp_path, include=["dist", ".git", ".git/**", "env"], exclude=["b.js"])
    assert chosen == {"main.py", "dist/a.js", ".gitignore"}


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (["x"] * 101, "at most 100 patterns"),
        (["x" * 257], "over 256 characters"),
        (["*a*a*a*b"], "more than 3 stars"),
        (["**/a/**/b/**/c/**"], "more than 3 stars"),
        (["../x"], "leads out of"),
        (["a/../../x"], "leads out of"),
        (["a\nb"], "is no pattern"),
        (["!"], "is no pattern"),
        ([""], "is no pattern"),
    ],
)
def test_patterns_that_cannot_be_are_named(patterns: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_patterns(patterns)


def test_the_worst_pattern_that_is_taken_is_still_quick(tmp_path: Path) -> None:
    worst = ["*a*a*ab", "**/**a/x*a*a*b"]
    check_patterns(worst)
    make(tmp_path, *(f"{'a' * 200}{number}" for number in range(20)), "main.py")
    began = time.process_time()
    assert "main.py" in names(tmp_path, include=worst, exclude=worst)
    assert time.process_time() - began < 20


def as_git_sees(root: Path) -> set[str]:
    """The files that git would add: the yardstick for .gitignore."""
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "--others", "--exclude-standard", "-z"],
        check=True,
        capture_output=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
    )
    return {name for name in listed.stdout.decode().split("\0") if name}


@pytest.mark.parametrize(
    ("top", "nested"),
    [
        ("*.log\n", "!keep.log\n"),
        ("/a.txt\n", "b.txt\n"),
        ("sub/\n!sub/keep.log\n", ""),
        ("sub/*\n!sub/keep.log\n", ""),
        ("**/deep/\n", ""),
        ("*\n!*/\n!*.py\n", ""),
        ("# comment\n\\#odd\n  \ntrailing  \n", "*\n"),
        ("sub/deep\n", "!deep\n"),
        ("*.tx[st]\n", "/deep/*.py\n"),
        ("/sub/*\n!*/\n", ""),
        ("/sub/*\n!/sub/deep\n", ""),
        ("sub/**\n!*.py\n", ""),
        ("*\n!/sub\n!/sub/deep/\n!m.py\n", ""),
        ("sub/**/\n", ""),
        ("**/sub/*\n!deep/\n", "*.py\n!m.py\n"),
        ("!\n[\n/\n**/a.txt\n", "*/m.py\n"),
        ("a?txt\n!sub/a.txt\n", "deep/**/a.txt\n"),
    ],
)
def test_gitignore_means_what_it_means_to_git(tmp_path: Path, top: str, nested: str) -> None:
    make(tmp_path, "a.txt", "main.py", "x.log", "#odd", "trailing")
    make(tmp_path, "sub/a.txt", "sub/b.txt", "sub/keep.log", "sub/x.log", "sub/m.py")
    make(tmp_path, "sub/deep/m.py", "sub/deep/keep.log", "sub/deep/a.txt")
    (tmp_path / ".gitignore").write_text(top)
    (tmp_path / "sub" / ".gitignore").write_text(nested)
    assert names(tmp_path) == as_git_sees(tmp_path)


def test_the_rules_above_a_deployed_directory_hold_too(tmp_path: Path) -> None:
    make(tmp_path, "fn/main.py", "fn/debug.log", "fn/sub/x.log", _gitignore="*.log\n")
    assert "debug.log" in names(tmp_path / "fn")  # no repository, no rules from above
    (tmp_path / ".git").mkdir()
    assert names(tmp_path / "fn") == {"main.py"}


def test_a_directory_that_git_ignores_can_still_be_deployed(tmp_path: Path) -> None:
    make(tmp_path, ".git/HEAD", "out/fn/main.py", _gitignore="out/\n")
    assert names(tmp_path / "out" / "fn") == {"main.py"}


def test_links_inside_the_tree_stay_links(tmp_path: Path) -> None:
    make(tmp_path, "lib/real.py")
    (tmp_path / "main.py").symlink_to("lib/real.py")
    (tmp_path / "library").symlink_to("lib")
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path)[1])) as archive:
        links = {m.name: m.linkname for m in archive if m.issym()}
    assert links == {"main.py": "lib/real.py", "library": "lib"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "lib/../../outside", "."])
def test_a_link_out_of_the_tree_is_refused(tmp_path: Path, target: str) -> None:
    root = tmp_path / "fn"
    make(root, "lib/x.py")
    make(tmp_path, "outside")
    (root / "link").symlink_to(target)
    if target == ".":  # stays inside, and must not be followed for ever
        assert names(root) == {"lib/x.py", "link"}
        return
    with pytest.raises(CliError, match="out of the directory"):
        pack(root, io.BytesIO())


def test_a_link_that_leaves_through_another_link_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "fn"
    make(root, "a/b/x.py")
    make(tmp_path, "outside")
    (root / "a" / "b" / "up").symlink_to("../..")
    # Read as text it stays inside; followed, `up/..` is above the root.
    (root / "sneaky").symlink_to("a/b/up/../outside")
    with pytest.raises(CliError, match="out of the directory"):
        pack(root, io.BytesIO())


def test_what_is_no_file_is_left_out_and_named(tmp_path: Path) -> None:
    make(tmp_path, "main.py")
    os.mkfifo(tmp_path / "pipe")
    facts = packed(tmp_path)[0]
    assert facts.files == ("main.py",)
    assert facts.left_out == ("pipe",)


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff.py")).write_text("x")
    with pytest.raises(CliError, match="not UTF-8"):
        pack(tmp_path, io.BytesIO())


def test_too_many_files_are_refused_before_they_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.pack.ARCHIVE_ENTRIES_MAX", 3)
    make(tmp_path, *(f"{n}.py" for n in range(4)))
    into = io.BytesIO()
    with pytest.raises(CliError, match="more than 3 files"):
        pack(tmp_path, into)
    assert not into.getvalue()


def test_too_many_bytes_are_refused_before_they_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.pack.ARCHIVE_UNPACKED_BYTES_MAX", 10)
    make(tmp_path, a_py="x" * 11)
    with pytest.raises(CliError, match="holds more than"):
        pack(tmp_path, io.BytesIO())


def test_the_archive_says_nothing_about_when_it_was_made(tmp_path: Path) -> None:
    make(tmp_path, "a.py")
    before = packed(tmp_path)[1]
    later = time.time() + 100_000
    os.utime(tmp_path / "a.py", (later, later))
    assert packed(tmp_path)[1] == before
    assert before[4:8] == b"\0\0\0\0"  # gzip's own time


def uploaded(root: Path) -> tuple[set[str], tuple[str, ...]]:
    """What deploy would send of a directory, and what it says about it."""
    upload = open_upload(open_project(root, name="f", runtime="python"))
    with upload.file, tarfile.open(fileobj=upload.file) as archive:
        return set(archive.getnames()), upload.hints


def test_deploy_reads_the_patterns_in_hearth_toml(tmp_path: Path) -> None:
    make(tmp_path, "main.py", "dist/a.js", "notes.md", "package-lock.json", "node_modules/a/x.js")
    make(tmp_path, _gitignore="dist/\n")
    (tmp_path / "hearth.toml").write_text('include = ["dist/"]\nexclude = ["*.md", ".gitignore"]\n')
    names, hints = uploaded(tmp_path)
    assert names == {"main.py", "dist/a.js", "hearth.toml", "package-lock.json"}
    assert hints == ("node_modules stays here: the build installs it from its lock",)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('include = "dist"', "include in hearth.toml must be a list"),
        ("exclude = [1]", "exclude in hearth.toml must be a list"),
        ('exclude = ["../x"]', "exclude in hearth.toml: '../x' leads out of the directory"),
    ],
)
def test_patterns_in_hearth_toml_that_cannot_be_are_refused(
    tmp_path: Path, line: str, says: str
) -> None:
    make(tmp_path, "main.py")
    (tmp_path / "hearth.toml").write_text(line)
    with pytest.raises(CliError, match=says):
        uploaded(tmp_path)
