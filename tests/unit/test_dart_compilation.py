"""What a Dart function is compiled from: exact files and commands, without a Dart SDK."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import BuildFailed
from core.settings import Settings
from tests.unit.test_dependencies import tree
from worker.dart_compilation import SCRIPT, find, require_sdk
from worker.dependencies import Found, Plan, stage

PUBSPEC = "name: greeter\nenvironment:\n  sdk: ^3.2.0\ndependencies:\n  path: any\n"


def plan(root: Path, files: dict[str, str], handler: str = "main.handler") -> Plan:
    found = find(tree(root, files), handler).plan
    assert found is not None
    return found


def test_the_commands_are_exact() -> None:
    assert SCRIPT.splitlines() == [
        "cd .hearth/build",
        "export PUB_CACHE=/out/tmp/pub",
        "dart pub get",
        "dart compile exe --output /out/layer/bootstrap bin/bootstrap.dart",
        "chmod 755 /out/layer/bootstrap",
    ]


def test_a_library_is_imported_by_its_package(tmp_path: Path) -> None:
    made = plan(tmp_path, {"pubspec.yaml": PUBSPEC, "lib/main.dart": "", "main.dart": ""})
    assert made.written[".hearth/build/bin/bootstrap.dart"] == (
        "import 'package:hearth/runtime.dart';\n"
        "import 'package:greeter/main.dart' as function;\n\n"
        "Future<void> main() => serve(function.handler);\n"
    )
    root = made.written[".hearth/build/pubspec.yaml"]
    assert "dependencies:\n  hearth:\n    path: hearth\n  greeter:\n    path: ../..\n" in root
    assert "dependency_overrides:\n  hearth:\n    path: hearth\n" in root
    assert "pubspec.yaml" not in made.written
    assert (made.kind, made.says, made.pinned) == ("dart", "lib/main.dart with pubspec.yaml", False)


@pytest.mark.parametrize(
    ("file", "handler", "line"),
    [
        ("bin/main.dart", "main.handler", "import '../../../bin/main.dart' as function;"),
        ("main.dart", "main.create", "import '../../../main.dart' as function;"),
        ("lib/src/app.dart", "src/app.run$", "import 'package:greeter/src/app.dart' as function;"),
    ],
)
def test_a_file_elsewhere_is_imported_by_its_place(
    tmp_path: Path, file: str, handler: str, line: str
) -> None:
    made = plan(tmp_path, {"pubspec.yaml": PUBSPEC, file: ""}, handler)
    entry = made.written[".hearth/build/bin/bootstrap.dart"]
    assert line in entry
    assert f"serve(function.{handler.rpartition('.')[2]});" in entry


def test_a_single_file_becomes_a_package(tmp_path: Path) -> None:
    made = plan(tmp_path, {"main.dart": ""})
    assert made.written["pubspec.yaml"].startswith("name: function\n")
    assert "  function:\n    path: ../..\n" in made.written[".hearth/build/pubspec.yaml"]


def test_a_lock_goes_along_and_pins(tmp_path: Path) -> None:
    made = plan(tmp_path, {"pubspec.yaml": PUBSPEC, "pubspec.lock": "x: 1", "main.dart": ""})
    assert made.pinned
    assert made.written[".hearth/build/pubspec.lock"] == "x: 1"


def test_everything_is_staged_with_our_package_beside_it(tmp_path: Path) -> None:
    files = {"pubspec.yaml": PUBSPEC, "lib/main.dart": "a", "assets/x.txt": "b"}
    made = plan(tmp_path / "code", files)
    first = stage(tmp_path / "code", made, tmp_path / "src")
    there = {p.relative_to(tmp_path / "src").as_posix() for p in (tmp_path / "src").rglob("*.*")}
    assert {"lib/main.dart", "assets/x.txt", ".hearth/build/bin/bootstrap.dart"} <= there
    assert ".hearth/build/hearth/lib/src/context.dart" in there
    (tmp_path / "code" / "lib" / "main.dart").write_text("other")
    assert stage(tmp_path / "code", made, tmp_path / "again") != first


def test_a_program_that_came_along_is_not_compiled(tmp_path: Path) -> None:
    found = find(tree(tmp_path, {"bootstrap": "", "pubspec.yaml": PUBSPEC}), "main.handler")
    assert found == Found(None, ("bootstrap came with the code: nothing is compiled",))


@pytest.mark.parametrize(
    ("files", "handler", "says"),
    [
        ({"pubspec.yaml": PUBSPEC}, "main.handler", "none of lib/main.dart, bin/main.dart"),
        ({"main.dart": ""}, "main", "not file.function"),
        ({"main.dart": ""}, "main.a-b", "not file.function"),
        ({"main.dart": ""}, "main._hidden", "private"),
        ({"main.dart": "", "pubspec.yaml": "version: 1.0.0\n"}, "main.handler", "no name"),
        ({"main.dart": "", "pubspec.yaml": "name: Bad-Name\n"}, "main.handler", "no name"),
        ({"main.dart": "", "pubspec.yaml": "name: hearth\n"}, "main.handler", "is taken"),
    ],
)
def test_what_cannot_be_compiled_is_told(
    tmp_path: Path, files: dict[str, str], handler: str, says: str
) -> None:
    with pytest.raises(BuildFailed, match=says):
        find(tree(tmp_path, files), handler)


def test_without_an_sdk_the_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="HEARTH_DART_SDK or HEARTH_DART_BASE_IMAGE"):
        require_sdk(Settings())
    require_sdk(replace(Settings(), dart_sdk=tmp_path))
    require_sdk(replace(Settings(), dart_base_image="dart"))
