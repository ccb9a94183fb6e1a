"""What package.json and its lock are understood to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import BuildFailed
from worker.dependencies import Found, Plan
from worker.node_dependencies import find


def tree(root: Path, files: dict[str, str], **package: Any) -> Path:
    for name, text in {"package.json": json.dumps(package), **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def plan(root: Path, files: dict[str, str], **package: Any) -> Plan:
    found = find(tree(root, files, **package)).plan
    assert found is not None
    return found


def test_a_package_without_dependencies_needs_nothing(tmp_path: Path) -> None:
    assert find(tree(tmp_path, {}, type="module", devDependencies={"a": "1"})) == Found(None)


def test_no_package_at_all_needs_nothing(tmp_path: Path) -> None:
    assert find(tmp_path) == Found(None)


@pytest.mark.parametrize("lock", ["package-lock.json", "npm-shrinkwrap.json"])
def test_a_lock_is_followed_exactly(tmp_path: Path, lock: str) -> None:
    found = plan(tmp_path, {lock: "{}", ".npmrc": "x"}, dependencies={"a": "1"})
    assert (found.kind, found.pinned, found.files) == ("npm-ci", True, (lock, ".npmrc"))


def test_without_a_lock_npm_chooses(tmp_path: Path) -> None:
    found = plan(tmp_path, {}, dependencies={"a": "^1"})
    assert (found.kind, found.pinned, found.files) == ("npm-install", False, ())


def test_a_foreign_lock_is_not_read_and_that_is_said(tmp_path: Path) -> None:
    found = find(tree(tmp_path, {"yarn.lock": ""}, dependencies={"a": "1"}))
    assert found.notes == ("yarn.lock is not read; npm chooses versions by package.json alone",)


def test_modules_that_came_along_are_used_as_they_are(tmp_path: Path) -> None:
    files = {"node_modules/a/index.js": "", "package-lock.json": "{}"}
    found = find(tree(tmp_path, files, dependencies={"a": "1"}))
    assert found.plan is None
    assert found.notes == ("node_modules came with the code and is used as it is",)


def test_its_own_scripts_are_left_out_and_what_a_lock_must_agree_with_stays(
    tmp_path: Path,
) -> None:
    package = {
        "dependencies": {"a": "1"},
        "scripts": {"prepare": "x"},
        "devDependencies": {"b": "1"},
    }
    (tmp_path / "one").mkdir()
    free = plan(tmp_path / "one", {}, **package)
    assert json.loads(free.written["package.json"]) == {"dependencies": {"a": "1"}}
    (tmp_path / "two").mkdir()
    locked = plan(tmp_path / "two", {"package-lock.json": "{}"}, **package)
    assert set(json.loads(locked.written["package.json"])) == {"dependencies", "devDependencies"}


def test_local_packages_and_what_they_name_are_part_of_the_plan(tmp_path: Path) -> None:
    inner = json.dumps({"dependencies": {"c": "file:../c", "d": "file:../d.tgz"}})
    files = {"libs/b/package.json": inner, "libs/c/package.json": "{}", "libs/d.tgz": ""}
    found = plan(tmp_path, files, dependencies={"b": "file:libs/b", "x": "^1"})
    assert set(found.trees) == {"libs/b", "libs/c"}
    assert found.files == ("libs/d.tgz",)


def test_packages_that_name_each_other_end(tmp_path: Path) -> None:
    files = {
        "a/package.json": json.dumps({"dependencies": {"b": "file:../b"}}),
        "b/package.json": json.dumps({"dependencies": {"a": "file:../a"}}),
    }
    assert set(plan(tmp_path, files, dependencies={"a": "./a"}).trees) == {"a", "b"}


def test_workspaces_need_everything(tmp_path: Path) -> None:
    assert plan(tmp_path, {}, workspaces=["packages/*"]).trees == (".",)


@pytest.mark.parametrize("wanted", ["file:../x", "../x", "/etc", "file:/etc", "link:../x", "~/x"])
def test_a_path_out_of_the_function_is_refused(tmp_path: Path, wanted: str) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "x").mkdir()
    with pytest.raises(BuildFailed):
        find(tree(tmp_path / "inside", {}, dependencies={"a": wanted}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"dependencies": []}', "dependencies must be an object"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_package_that_cannot_be_read_says_why(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "package.json").write_text(text)
    with pytest.raises(BuildFailed, match=says):
        find(tmp_path)


def test_strange_values_are_npms_to_judge(tmp_path: Path) -> None:
    assert plan(tmp_path, {}, dependencies={"a": 1, "b": None, "c": {"d": 1}}).trees == ()


def test_a_lock_beyond_the_limit_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {}, dependencies={"a": "1"})
    with (tmp_path / "package-lock.json").open("wb") as file:
        file.truncate(33 << 20)
    with pytest.raises(BuildFailed, match=r"package-lock\.json has 34,603,008 bytes, at most"):
        find(tmp_path)
