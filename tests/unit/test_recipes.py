"""What goes into an image decides whether it is built again; the commands are exact."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from runtimes import recipes as book
from runtimes.recipes import Recipe
from runtimes.registry import RUNTIMES


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The Python runtime's, with a folder of its own that a test may change."""
    found = next(r for r in book.recipes() if r.name == "python3.13")
    shutil.copytree(found.runtime.folder, tmp_path / "python")
    runtime = dataclasses.replace(found.runtime, folder=tmp_path / "python")
    return dataclasses.replace(found, runtime=runtime)


def builder_of(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, target="builder")


def test_every_runtime_has_its_image_and_its_builder() -> None:
    made = {recipe.image for recipe in book.recipes()}
    builders = {r.builder_image for r in RUNTIMES.values() if r.builder_image}
    assert made == {r.image for r in RUNTIMES.values()} | builders
    assert len(made) == len(book.recipes())


def test_what_a_runtime_shares_lies_beside_its_own() -> None:
    custom = next(r for r in book.recipes() if r.name == "custom")
    places = {custom.place(path) for path in custom.sources()}
    assert {"bridge.py", "hearth_bridge/api.py", "hearth_shim/wire.py"} <= places


def test_every_file_a_runtime_starts_is_in_its_image() -> None:
    assert {recipe.name: recipe.missing() for recipe in book.recipes() if recipe.missing()} == {}


def test_a_shim_that_is_not_there_is_named(recipe: Recipe) -> None:
    (recipe.runtime.folder / "shim.py").unlink()
    assert recipe.missing() == ["shim.py"]


def test_a_changed_shim_changes_the_runtime_and_leaves_the_builder(recipe: Recipe) -> None:
    before = [book.digest(r, "base", "id") for r in (recipe, builder_of(recipe))]
    (recipe.runtime.folder / "shim.py").write_text("changed")
    after = [book.digest(r, "base", "id") for r in (recipe, builder_of(recipe))]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_another_base_changes_both(recipe: Recipe) -> None:
    for one in (recipe, builder_of(recipe)):
        seen = {book.digest(one, *base) for base in [("a", "1"), ("a", "2"), ("b", "1")]}
        assert len(seen) == 3


def test_text_cannot_move_between_two_inputs_unseen() -> None:
    assert book._digest(["ab", "c"]) != book._digest(["a", "bc"])


def test_the_base_is_bootstrapped_without_what_sandboxes_never_need(tmp_path: Path) -> None:
    command = book.bootstrap_command("", tmp_path / "base.tar")
    assert command[:2] == ["mmdebstrap", "--variant=essential"]
    assert command[-2:] == ["trixie", str(tmp_path / "base.tar")]
    assert "python3" in book.base_packages()
    assert not [package for package in book.base_packages() if "#" in package]


def test_a_mirror_is_passed_on_and_changes_the_base(tmp_path: Path) -> None:
    mirror = "http://127.0.0.1/debian"
    assert book.bootstrap_command(mirror, tmp_path)[-1] == mirror
    assert book.base_digest(mirror) != book.base_digest("")


def test_a_build_reaches_no_network(recipe: Recipe) -> None:
    command = book.build_command(recipe, "localhost/base", "f00", Path("/context"))
    assert command[command.index("--network") + 1] == "none"
    assert command[command.index("--build-arg") + 1] == "BASE_IMAGE=localhost/base"
    assert command[command.index("--label") + 1] == "hearth.inputs=f00"
    assert command[-1] == "/context"
