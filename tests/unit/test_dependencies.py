"""What requirements.txt and pyproject.toml are understood to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import BuildFailed
from worker import dependencies
from worker.dependencies import Found, Plan
from worker.python_dependencies import find

HASH = "--hash=sha256:" + "0" * 64


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def plan(root: Path, files: dict[str, str]) -> Plan:
    found = find(tree(root, files)).plan
    assert found is not None
    return found


def test_no_list_means_nothing_to_install(tmp_path: Path) -> None:
    assert find(tree(tmp_path, {"main.py": ""})) == Found(None)


def test_an_empty_list_means_nothing_to_install_and_says_so(tmp_path: Path) -> None:
    found = find(tree(tmp_path, {"requirements.txt": "\n# nothing\n  \n"}))
    assert found == Found(None, ("requirements.txt lists nothing",))


def test_requirements_go_before_pyproject(tmp_path: Path) -> None:
    project = '[project]\ndependencies = ["b"]\n'
    found = plan(tmp_path, {"requirements.txt": "a\n", "pyproject.toml": project})
    assert (found.says, found.files) == ("requirements.txt", ("requirements.txt",))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("-r more/base.txt", "more/base.txt"),
        ("-rmore/base.txt", "more/base.txt"),
        ("--requirement more/base.txt", "more/base.txt"),
        ("--requirement=more/base.txt", "more/base.txt"),
        ("-c more/base.txt", "more/base.txt"),
        ("--constraint more/base.txt  # why", "more/base.txt"),
        ("./more/a.whl", "more/a.whl"),
        ("more/a.whl ; python_version > '3'", "more/a.whl"),
        ("more/lib.tar.gz --hash=sha256:00", "more/lib.tar.gz"),
    ],
)
def test_files_that_a_list_names_are_part_of_the_plan(
    tmp_path: Path, line: str, named: str
) -> None:
    files = {"requirements.txt": f"x\n{line}\n", named: "", "secret.txt": ""}
    assert plan(tmp_path, files).files == ("requirements.txt", named)


def test_a_list_named_by_a_list_is_sought_beside_it(tmp_path: Path) -> None:
    files = {"requirements.txt": "-r a/one.txt", "a/one.txt": "x\n-r two.txt", "a/two.txt": "y"}
    assert plan(tmp_path, files).files == ("requirements.txt", "a/one.txt", "a/two.txt")


def test_lists_that_name_each_other_end(tmp_path: Path) -> None:
    files = {"requirements.txt": "-r b.txt", "b.txt": "x\n-r requirements.txt"}
    assert plan(tmp_path, files).files == ("requirements.txt", "b.txt")


@pytest.mark.parametrize("line", ["./libs/foo", "libs/foo[extra]", "./libs/foo ; os_name == 'x'"])
def test_a_local_project_is_part_of_the_plan_with_all_its_files(tmp_path: Path, line: str) -> None:
    files = {"requirements.txt": line, "libs/foo/pyproject.toml": "", "libs/foo/foo.py": ""}
    assert plan(tmp_path, files).trees == ("libs/foo",)


@pytest.mark.parametrize(
    "line",
    ["-r ../other.txt", "-r /etc/passwd", "../lib", "/usr/lib", "-c ../../x", "-f ../wheels"],
)
def test_a_path_out_of_the_function_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(BuildFailed, match="outside of the function's own files"):
        find(tree(tmp_path / "inside", {"requirements.txt": f"{line}\n"}))


def test_a_link_out_of_the_function_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "requirements.txt").symlink_to("/etc/passwd")
    with pytest.raises(BuildFailed, match="outside"):
        find(tmp_path / "inside")


def test_a_named_file_that_is_not_in_the_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"base\.txt is named .* not in the archive"):
        find(tree(tmp_path, {"requirements.txt": "-r base.txt"}))


def test_an_editable_requirement_is_refused_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"write \./lib without -e"):
        find(tree(tmp_path, {"requirements.txt": "-e ./lib", "lib/setup.py": ""}))


@pytest.mark.parametrize(
    "line",
    [
        "a @ https://example.com/a.whl",
        "a>=1",
        "a ~= 1.0 ; b < 'c'",
    ],
)
def test_what_lies_elsewhere_names_no_file(tmp_path: Path, line: str) -> None:
    found = plan(tmp_path, {"requirements.txt": f"{line}\n"})
    assert (found.files, found.trees) == (("requirements.txt",), ())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("git+https://u:s3cret@example.com/a.git", "there is no git .* archive of the commit"),
        ("a @ git+ssh://git@example.com/a.git@v1", "there is no git"),
        ("a[b] @ hg+https://example.com/a", "there is no git"),
        ("-e git+https://example.com/a.git#egg=a", "-e links|there is no git"),
        ("file:///etc/passwd", "a file: address"),
        ("a @ file:///srv/a.whl", "a file: address"),
        ("--find-links file:///srv", "a file: address"),
        ("--index-url=file:///srv", "a file: address"),
        ("-r file:///etc/passwd", "a file: address"),
    ],
)
def test_what_an_installation_cannot_reach_is_refused_with_what_to_write(
    tmp_path: Path, line: str, says: str
) -> None:
    with pytest.raises(BuildFailed, match=says) as refused:
        find(tree(tmp_path, {"requirements.txt": f"x\n{line}\n"}))
    assert "s3cret" not in refused.value.message


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://packages.test/simple",
        "--extra-index-url=https://packages.test/simple",
        "--pre",
        "--only-binary :all:",
        "a[x,y]>=1,<2 ; python_version >= '3.13' and sys_platform == 'linux'",
        "a @ https://example.com/file:name/a.whl",
    ],
)
def test_options_extras_and_markers_are_pips_to_read(tmp_path: Path, line: str) -> None:
    found = plan(tmp_path, {"requirements.txt": f"x\n{line}\n"})
    assert (found.files, found.trees) == (("requirements.txt",), ())


def test_a_list_of_thousands_is_taken_and_one_beyond_the_limit_is_not(tmp_path: Path) -> None:
    lines = [f"package-{number}==1 {HASH}\n" for number in range(5_000)]
    assert plan(tmp_path, {"requirements.txt": "".join(lines)}).pinned
    with pytest.raises(BuildFailed, match="leads to more than 5,000 lines"):
        find(tree(tmp_path, {"requirements.txt": "".join([*lines, "one-more\n"])}))
    with pytest.raises(BuildFailed, match="has 4,500,000 bytes, at most 4,194,304 are taken"):
        find(tree(tmp_path, {"requirements.txt": "#" * 4_500_000}))


@pytest.mark.parametrize(
    ("text", "pinned"),
    [
        (f"a==1 {HASH}\nb==2 \\\n  {HASH}\n", True),
        (f"a==1 {HASH}\nb==2\n", False),
        ("a==1\n", False),  # what it needs in turn is not said
        (f"a==1 {HASH}\n-r https://example.com/more.txt\n", False),
    ],
)
def test_only_a_list_with_every_hash_is_exact(tmp_path: Path, text: str, pinned: bool) -> None:
    assert plan(tmp_path, {"requirements.txt": text}).pinned is pinned


def test_a_project_gives_its_dependencies_and_only_them(tmp_path: Path) -> None:
    project = """
[project]
name = "x"
dependencies = ["a>=1", "b[c]==2 ; python_version > '3'"]
[project.optional-dependencies]
dev = ["pytest"]
"""
    found = plan(tmp_path, {"pyproject.toml": project})
    assert found.files == ()
    assert dict(found.written) == {"requirements.txt": "a>=1\nb[c]==2 ; python_version > '3'\n"}


@pytest.mark.parametrize("item", ["--index-url=https://evil", "-r /etc/passwd", " -e ."])
def test_a_project_cannot_smuggle_an_option_in(tmp_path: Path, item: str) -> None:
    project = f"[project]\ndependencies = [{item!r}]\n"
    with pytest.raises(BuildFailed, match="is not a dependency"):
        find(tree(tmp_path, {"pyproject.toml": project}))


def test_a_project_cannot_smuggle_a_line_in(tmp_path: Path) -> None:
    project = '[project]\ndependencies = ["a\\n--index-url=https://evil"]\n'
    found = plan(tmp_path, {"pyproject.toml": project})
    assert found.written["requirements.txt"].count("\n") == 1


@pytest.mark.parametrize(
    ("project", "hint"),
    [
        ('[project]\nname="x"\ndynamic = ["dependencies"]', "computes its dependencies"),
        ('[tool.poetry.dependencies]\npython="3"\na="1"', "tool.poetry is not read"),
        ("[tool.ruff]", ""),
    ],
)
def test_a_project_whose_dependencies_stand_elsewhere_gets_a_hint(
    tmp_path: Path, project: str, hint: str
) -> None:
    found = find(tree(tmp_path, {"pyproject.toml": project}))
    assert found.plan is None
    assert hint in " ".join(found.notes)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("pyproject.toml", "not [toml", "is not valid TOML"),
        ("pyproject.toml", '[project]\ndependencies = "a"', "must be a list of strings"),
        ("pyproject.toml", "[project]\ndependencies = [1]", "must be a list of strings"),
    ],
)
def test_a_list_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    with pytest.raises(BuildFailed, match=says):
        find(tree(tmp_path, {name: text}))


def test_a_list_that_is_no_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfea\x00")
    with pytest.raises(BuildFailed, match="not UTF-8"):
        find(tmp_path)


# --- staging and the cache's key


def staged(root: Path, plan: Plan, to: Path) -> str:
    return dependencies.stage(root, plan, to)


def test_only_what_the_plan_names_is_copied(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "tree",
        {
            "requirements.txt": "./lib",
            "lib/a.py": "1",
            "lib/node_modules/x": "",
            "main.py": "secret",
        },
    )
    found = find(root).plan
    assert found is not None
    staged(root, found, tmp_path / "src")
    copied = sorted(
        str(p.relative_to(tmp_path / "src")) for p in (tmp_path / "src").rglob("*") if p.is_file()
    )
    assert copied == ["lib/a.py", "requirements.txt"]


def test_another_user_may_read_what_was_copied(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", {"requirements.txt": "./lib", "lib/a.py": "1"})
    found = find(root).plan
    assert found is not None
    for path in (root / "lib", root / "lib" / "a.py", root / "requirements.txt"):
        path.chmod(0o700)
    staged(root, found, tmp_path / "src")
    for path in (tmp_path / "src", *(tmp_path / "src").rglob("*")):
        wanted = 0o005 if path.is_dir() else 0o004
        assert path.stat().st_mode & wanted == wanted, path


def test_the_digest_covers_names_contents_and_nothing_else(tmp_path: Path) -> None:
    found = Plan(kind="pip", says="", files=("a", "b"))
    digests = []
    for number, files in enumerate(
        [{"a": "1", "b": "2"}, {"a": "1", "b": "2", "c": "3"}, {"a": "12", "b": ""}]
    ):
        root = tree(tmp_path / f"tree{number}", files)
        digests.append(staged(root, found, tmp_path / f"src{number}"))
    assert digests[0] == digests[1] != digests[2]


def test_files_too_many_or_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.dependencies.DEPENDENCY_FILES_MAX", 2)
    root = tree(tmp_path / "tree", {"lib/a": "", "lib/b": "", "lib/c": ""})
    with pytest.raises(BuildFailed, match="more than 2 files"):
        staged(root, Plan(kind="pip", says="", trees=("lib",)), tmp_path / "src")


def test_each_fact_changes_the_key() -> None:
    pip, npm = Plan(kind="pip", says=""), Plan(kind="npm-ci", says="")
    keys = {
        dependencies.key("default", ["r", "b"], pip, "s", "i"),
        dependencies.key("other", ["r", "b"], pip, "s", "i"),
        dependencies.key("default", ["r2", "b"], pip, "s", "i"),
        dependencies.key("default", ["r", "b2"], pip, "s", "i"),
        dependencies.key("default", ["r", "b"], npm, "s", "i"),
        dependencies.key("default", ["r", "b"], pip, "s2", "i"),
        dependencies.key("default", ["r", "b"], pip, "s", "i2"),
    }
    assert len(keys) == 7
    same = dependencies.key("default", ["r", "b"], Plan(kind="pip", says="else"), "s", "i")
    assert same in keys
