"""The images as they stand in the store: what is in them, what is not, when they are rebuilt."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from runtimes import images
from runtimes import recipes as book
from runtimes.images import ImageFailed, Kitchen
from runtimes.recipes import Recipe

pytestmark = [pytest.mark.podman, pytest.mark.timeout(300)]

HARDENED = (
    *("--rm", "--user", "200001:200001", "--read-only", "--network", "none", "--cap-drop", "all"),
    *("--security-opt", "no-new-privileges", "--log-driver", "none"),
)
# What this machine's settings say all of: without a Dart SDK there is no builder for Dart.
CAN_MAKE = images.Kitchen(Settings.from_env(), {}).can_make
RECIPES = {recipe.name: recipe for recipe in book.recipes() if CAN_MAKE(recipe)}
LEFT_OUT = [recipe.name for recipe in book.recipes() if not CAN_MAKE(recipe)]


@pytest.fixture(scope="module")
def kitchen() -> Kitchen:
    """This checkout's own, with every image built."""
    opened = images.open_kitchen(Settings.from_env())
    images.build(opened, [])
    return opened


@pytest.fixture
def elsewhere(kitchen: Kitchen, tmp_path: Path) -> Kitchen:
    """A kitchen with a data directory of its own and the same image store."""
    settings = dataclasses.replace(kitchen.settings, data_dir=tmp_path / "data")
    made = dataclasses.replace(kitchen, settings=settings)
    made.folder.mkdir(parents=True)
    return made


@pytest.fixture
def trial(kitchen: Kitchen) -> Iterator[str]:
    """A name for an image that goes away with the test."""
    name = f"localhost/hearth-test-{uuid.uuid4().hex}:latest"
    yield name
    podman(kitchen, "rmi", "--force", name, check=False)


def podman(kitchen: Kitchen, *arguments: str, check: bool = True) -> str:
    """Standard output of a podman command."""
    command = ["podman", *arguments]
    done = subprocess.run(
        command, env=dict(kitchen.environ), capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{command}: {done.stderr}")
    return done.stdout


def layers(kitchen: Kitchen, image: str) -> list[str]:
    """The digests of an image's layers, the base first."""
    facts: dict[str, Any] = json.loads(podman(kitchen, "image", "inspect", image))[0]
    found: list[str] = facts["RootFS"]["Layers"]
    return found


@pytest.mark.parametrize(
    ("name", "program", "answer"),
    [
        ("python3.13", "python3 -I -c 'import ssl, sqlite3, zoneinfo; print(6 * 7)'", "42"),
        ("node24", "node --print '6 * 7'", "42"),
        ("node24", "python3 -I -c 'import socket, json; print(6 * 7)'", "42"),
    ],
)
def test_a_hardened_container_of_any_uid_runs_the_language(
    kitchen: Kitchen, name: str, program: str, answer: str
) -> None:
    script = f"id -u; id -g; {program}"
    out = podman(kitchen, "run", *HARDENED, RECIPES[name].image, "sh", "-c", script)
    assert out.split() == ["200001", "200001", answer]


@pytest.mark.parametrize("name", ["python3.13", "node24"])
def test_the_mount_points_are_there_and_our_files_are_roots(kitchen: Kitchen, name: str) -> None:
    script = "stat --format '%n %U %a' /opt/hearth /opt/hearth/* /var/task /run/hearth"
    out = podman(
        kitchen, "run", "--rm", "--network", "none", RECIPES[name].image, "sh", "-c", script
    )
    rows = [line.split() for line in out.splitlines()]
    assert {row[0] for row in rows} >= {"/opt/hearth", "/var/task", "/run/hearth"}
    assert {tuple(row[1:]) for row in rows} == {("root", "755"), ("root", "644")}


@pytest.mark.parametrize("name", ["python3.13", "node24"])
def test_the_image_holds_the_shim_that_the_checkout_holds(kitchen: Kitchen, name: str) -> None:
    recipe = RECIPES[name]
    script = "cd /opt/hearth && find * -type f ! -name '*.pyc' -exec sha256sum {} +"
    inside = podman(kitchen, "run", *HARDENED, recipe.image, "sh", "-c", script)
    assert dict(line.split()[::-1] for line in inside.splitlines()) == {
        recipe.place(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in recipe.sources()
    }


@pytest.mark.parametrize("name", list(RECIPES))
def test_no_program_in_an_image_gains_rights_by_being_run(kitchen: Kitchen, name: str) -> None:
    script = "find / -xdev -type f -perm /6000; command -v apt-get dpkg perl gcc || true"
    command = ("run", "--rm", "--network", "none", RECIPES[name].image, "sh", "-c", script)
    assert podman(kitchen, *command) == ""


@pytest.mark.parametrize(
    ("name", "tools"),
    [
        ("python3.13", []),
        ("python3.13-builder", ["pip"]),
        ("node24", []),
        ("node24-builder", ["npm"]),
    ],
)
def test_only_builders_can_install_anything(kitchen: Kitchen, name: str, tools: list[str]) -> None:
    script = (
        "python3 -B -m pip --version >/dev/null 2>&1 && echo pip;"
        " npm --version >/dev/null 2>&1 && echo npm; true"
    )
    out = podman(kitchen, "run", *HARDENED, RECIPES[name].image, "sh", "-c", script)
    assert out.split() == tools


@pytest.mark.parametrize("name", list(RECIPES))
def test_no_module_is_compiled_again_when_it_is_imported(kitchen: Kitchen, name: str) -> None:
    """Flag 1 in the second word of byte code: valid whatever time its source bears."""
    script = (
        "import pathlib;"
        "found = list(pathlib.Path('/usr/lib').glob('python3*/**/*.pyc'));"
        "ours = pathlib.Path('/opt/hearth');"
        "made = {p.name.split('.')[0]: p for p in ours.glob('hearth_shim/__pycache__/*.pyc')};"
        "left = {p.stem for p in ours.glob('hearth_shim/*.py')} - {*made};"
        "found += made.values();"
        "print(len(found) > 300, [str(p) for p in found if p.read_bytes()[4] != 1], sorted(left))"
    )
    out = podman(
        kitchen, "run", *HARDENED, RECIPES[name].image, "python3", "-I", "-B", "-c", script
    )
    assert out == "True [] []\n"


def test_nothing_is_built_while_nothing_has_changed(
    kitchen: Kitchen, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [row["id"] for row in images._rows(kitchen)]
    images.build(kitchen, [])
    said = capsys.readouterr().out.splitlines()
    assert [row["id"] for row in images._rows(kitchen)] == before
    left_out = [line.split()[1] for line in said if images.NO_DART in line]
    assert left_out == LEFT_OUT
    said = [line for line in said if images.NO_DART not in line]
    assert len(said) == len(RECIPES) + 1
    assert all(line.endswith("up to date") for line in said)


def test_the_list_says_what_is_ready_and_what_is_missing(
    kitchen: Kitchen, capsys: pytest.CaptureFixture[str]
) -> None:
    images._list(kitchen, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["base", *RECIPES]
    assert all(row["ready"] and row["bytes"] > 10**7 for row in rows)
    missing = images._row(kitchen, "ruby", "localhost/hearth-test-no-such-image", "")
    assert (missing["ready"], missing["id"]) == (False, "")


def test_a_changed_shim_costs_one_layer(
    kitchen: Kitchen, elsewhere: Kitchen, trial: str, tmp_path: Path
) -> None:
    original = RECIPES["python3.13"]
    shutil.copytree(original.runtime.folder, tmp_path / "python")
    with (tmp_path / "python" / "shim.py").open("a") as shim:
        shim.write("# changed\n")
    runtime = dataclasses.replace(original.runtime, folder=tmp_path / "python")
    changed = dataclasses.replace(original, image=trial, runtime=runtime)
    assert images._build_recipe(elsewhere, changed)
    assert not images._build_recipe(elsewhere, changed)
    was, now = layers(kitchen, original.image), layers(kitchen, trial)
    assert now[:-1] == was[:-1]
    assert now[-1] != was[-1]


@pytest.mark.parametrize(
    ("name", "stand_in", "setting", "program"),
    [
        (
            "python3.13-builder",
            "python3.13-builder",
            "python_base_image",
            "python3 -m pip --version",
        ),
        ("node24", "node24-builder", "node_base_image", "node --version"),
    ],
)
def test_an_image_named_by_a_setting_can_be_the_base(
    elsewhere: Kitchen, trial: str, name: str, stand_in: str, setting: str, program: str
) -> None:
    """Ours stands in for an official image: it brings its own pip, or its own Node."""
    official = RECIPES[stand_in].image
    named: dict[str, Any] = {setting: official}
    settings = dataclasses.replace(elsewhere.settings, **named)
    foreign = Kitchen(settings, {**elsewhere.environ, "PIP_NO_INDEX": "1"})
    recipe: Recipe = dataclasses.replace(RECIPES[name], image=trial)
    assert images._build_recipe(foreign, recipe)
    base = layers(foreign, official)
    assert layers(foreign, trial)[: len(base)] == base
    podman(foreign, "run", *HARDENED, trial, "sh", "-c", program)


def test_a_base_that_cannot_be_had_is_named(elsewhere: Kitchen) -> None:
    gone = "localhost/hearth-test-no-such-base:latest"
    settings = dataclasses.replace(elsewhere.settings, python_base_image=gone)
    with pytest.raises(ImageFailed, match=gone):
        images.build(Kitchen(settings, elsewhere.environ), ["python3.13"])


def test_a_build_that_fails_shows_why_and_leaves_the_image_as_it_was(
    kitchen: Kitchen, elsewhere: Kitchen, tmp_path: Path
) -> None:
    original = RECIPES["python3.13"]
    before = images._image_id(kitchen, original.image)
    shutil.copytree(original.runtime.folder, tmp_path / "python")
    text = original.containerfile.read_text()
    (tmp_path / "python" / "Containerfile").write_text(f"{text}RUN echo the reason && false\n")
    runtime = dataclasses.replace(original.runtime, folder=tmp_path / "python")
    with pytest.raises(ImageFailed, match="the reason"):
        images._build_recipe(elsewhere, dataclasses.replace(original, runtime=runtime))
    assert images._image_id(kitchen, original.image) == before
