"""A Dart function's way from its source to a program, with a stand-in for the SDK.

The Dart SDK comes from a registry or a download of its own, which a test machine may not reach. The
stand-in is a shell script called `dart`: it proves everything around the compiler (the image with
an SDK, the files it is given, its arguments, the layer that is left, that it runs), and nothing of
the compiler itself. With HEARTH_DART_SDK set, the last test compiles for real.
"""

from __future__ import annotations

import dataclasses
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.host import ensure_containers_conf
from core.model import Version, VersionStatus
from core.settings import Settings
from runtimes import images
from runtimes import recipes as book
from runtimes.registry import RUNTIMES
from storage.store import object_key
from tests.conformance import wire_client
from tests.conformance.wire_client import READY
from tests.integration.builds.conftest import Workshop

pytestmark = pytest.mark.podman

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "hello-dart"
STAND_IN = """#!/bin/sh
# Stands in for the Dart SDK's `dart` in a test: compiles nothing.
set -eu
case "$1 ${2-}" in
"--version ") echo "Dart stand-in" ;;
"pub get")
  test -f pubspec.yaml && test -f hearth/lib/runtime.dart && test -n "$PUB_CACHE"
  mkdir .dart_tool && echo "Resolving dependencies..." ;;
"compile exe")
  test "$3 $5" = "--output bin/bootstrap.dart" && test -d .dart_tool
  if grep -q "syntax error" ../../lib/main.dart; then
    echo "lib/main.dart:3:1: Error: Expected an identifier."
    exit 254
  fi
  cp /usr/lib/dart/lib/answers "$4" ;;
*) echo "unexpected: $*"; exit 64 ;;
esac
"""
# What the stand-in's "compiler" leaves: a program that speaks the Runtime API.
ANSWERS = """#!/bin/bash
API="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
while true; do
  curl -sS -o /tmp/event -D /tmp/head "$API/next"
  ID=$(grep -Fi Request-Id /tmp/head | tr -d '[:space:]' | cut -d: -f2)
  curl -sS -o /dev/null --data-binary @/tmp/event "$API/$ID/response"
done
"""
IMAGE = "localhost/hearth-test-dart3-builder:latest"


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory like an SDK's, and the image that `hearth images build` makes of it, by a name
    that no real builder has."""
    sdk = tmp_path_factory.mktemp("sdk")
    for name, text in {"bin/dart": STAND_IN, "lib/answers": ANSWERS, "version": "0.0.0"}.items():
        (sdk / name).parent.mkdir(exist_ok=True)
        (sdk / name).write_text(text)
        (sdk / name).chmod(0o755)
    settings = dataclasses.replace(
        Settings.from_env({}), data_dir=tmp_path_factory.mktemp("data"), dart_sdk=sdk
    )
    ensure_containers_conf(settings.data_dir)
    kitchen = images.open_kitchen(settings)
    kitchen.folder.mkdir()
    (recipe,) = (r for r in book.recipes() if r.name == "dart3-builder")
    images._build_recipe(kitchen, dataclasses.replace(recipe, image=IMAGE))
    yield sdk
    command = ["podman", "rmi", "--force", IMAGE]
    subprocess.run(command, env=dict(kitchen.environ), check=True, capture_output=True)


@pytest.fixture
def shop(
    workshop_with_podman: Workshop, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> Workshop:
    """A node that was told of the stand-in."""
    runtime = dataclasses.replace(RUNTIMES["dart3"], builder_image=IMAGE)
    monkeypatch.setitem(RUNTIMES, "dart3", runtime)
    workshop_with_podman.settings = dataclasses.replace(
        workshop_with_podman.settings, dart_sdk=stand_in
    )
    return workshop_with_podman


def example() -> dict[str, str | bytes]:
    """examples/hello-dart."""
    return {
        path.relative_to(EXAMPLE).as_posix(): path.read_bytes()
        for path in EXAMPLE.rglob("*")
        if path.is_file()
    }


def program_of(shop: Workshop, version: Version, to: Path) -> Path:
    """The layer's only file."""
    assert version.status is VersionStatus.ACTIVE, shop.log_of(version)
    _, digest = version.layers
    shop.store.fetch(object_key(version.function_id, digest), to / "layer.tar")
    with tarfile.open(to / "layer.tar") as layer:
        assert [entry.name for entry in layer if entry.isfile()] == ["bootstrap"]
        layer.extractall(to, filter="data")
    return to / "bootstrap"


def test_a_function_is_compiled_into_a_layer_that_runs(shop: Workshop, tmp_path: Path) -> None:
    version = shop.build(shop.deploy(example(), runtime="dart3"))
    program = program_of(shop, version, tmp_path)
    log = shop.log_of(version)
    assert "$ dart compile exe --output bootstrap" in log
    assert "Resolving dependencies..." in log
    with wire_client.make(
        RUNTIMES["custom"], {"bootstrap": program.read_bytes()}, tmp_path
    ) as made:
        assert made.init().kind == READY
        assert made.call({"name": "Ada"}).result == {"name": "Ada"}
    again = shop.build(shop.deploy(example(), runtime="dart3"))
    assert "reused" in shop.log_of(again)


def test_what_does_not_compile_fails_with_the_compilers_words(shop: Workshop) -> None:
    files = example() | {"lib/main.dart": "syntax error"}
    version = shop.build(shop.deploy(files, runtime="dart3"))
    assert version.status is VersionStatus.FAILED
    assert version.error is not None
    assert version.error.startswith("compiling the function failed (dart exit status 254)")
    assert "lib/main.dart:3:1: Error: Expected an identifier." in version.error


def test_without_an_sdk_a_deploy_says_so_at_once(workshop: Workshop) -> None:
    version = workshop.build(workshop.deploy(example(), runtime="dart3"))
    assert version.status is VersionStatus.FAILED
    assert version.error is not None
    assert "HEARTH_DART_SDK or HEARTH_DART_BASE_IMAGE" in version.error


def test_a_program_that_came_along_needs_no_sdk(workshop: Workshop) -> None:
    files = example() | {"bootstrap": ANSWERS}
    version = workshop.build(workshop.deploy(files, runtime="dart3"))
    assert (version.status, len(version.layers)) == (VersionStatus.ACTIVE, 1)


def test_the_real_sdk_compiles_the_example(workshop_with_podman: Workshop, tmp_path: Path) -> None:
    settings = Settings.from_env()
    if settings.dart_sdk == Path() and not settings.dart_base_image:
        pytest.skip(
            "no Dart SDK: set HEARTH_DART_SDK or HEARTH_DART_BASE_IMAGE, run `make images`, "
            "and this test compiles and runs examples/hello-dart"
        )
    shop = workshop_with_podman
    shop.settings = dataclasses.replace(
        shop.settings, dart_sdk=settings.dart_sdk, dart_base_image=settings.dart_base_image
    )
    version = shop.build(shop.deploy(example(), runtime="dart3"))
    code = {"bootstrap": program_of(shop, version, tmp_path).read_bytes()}
    with wire_client.make(RUNTIMES["custom"], code, tmp_path) as made:
        assert made.init().kind == READY, made.written
        assert made.call({"name": "Ada"}).result["message"] == "Hello, Ada!"
        answer = made.http("/", method="GET", query="name=Grace")
        assert answer.result["message"] == "Hello, Grace!"
        assert made.call([1]).head["type"] == "_TypeError"  # it takes an object
        assert made.call({"name": "on"}).result["message"] == "Hello, on!"
