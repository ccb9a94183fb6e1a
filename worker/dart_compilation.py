"""A Dart function as one program: what is compiled, and the few files that we write around it.

The function stays a package of its own. Beside it, in a folder that no function uses, lies the
package that is compiled: its `main` hands the function's handler to our runtime package.
"""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import BuildFailed
from core.settings import Settings
from runtimes.registry import HERE
from worker.dependencies import Found, Plan, read

PROGRAM = "bootstrap"
PUBSPEC, LOCK = "pubspec.yaml", "pubspec.lock"
BUILD = ".hearth/build"
ENTRY = f"{BUILD}/bin/{PROGRAM}.dart"
PACKAGE = HERE / "dart" / "hearth"  # ours

_OWN_NAMES = ("hearth", "hearth_bootstrap")
_PACKAGE_NAME = re.compile(
    r"""^name[ \t]*:[ \t]*['"]?([a-z_][a-z0-9_]*)['"]?[ \t]*(?:#.*)?$""", re.MULTILINE
)
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_ALONE = """\
name: function
publish_to: none
environment:
  sdk: ^3.0.0
"""
_ROOT = """\
name: hearth_bootstrap
publish_to: none
environment:
  sdk: ^3.0.0
dependencies:
  hearth:
    path: hearth
  {package}:
    path: ../..
# A function may name the package `hearth` for its editor's sake: this one is meant.
dependency_overrides:
  hearth:
    path: hearth
"""
_MAIN = """\
import 'package:hearth/runtime.dart';
import '{uri}' as function;

Future<void> main() => serve(function.{handler});
"""
# What a shell in the builder runs, in the copy of the staged files.
SCRIPT = f"""cd {BUILD}
export PUB_CACHE=/out/tmp/pub
dart pub get
dart compile exe --output /out/layer/{PROGRAM} bin/{PROGRAM}.dart
chmod 755 /out/layer/{PROGRAM}
"""
SAYS = f"dart compile exe --output {PROGRAM}"


def find(tree: Path, handler: str) -> Found:
    """The compilation of an unpacked function; none when it brings its program along."""
    if (tree / PROGRAM).exists():
        return Found(None, (f"{PROGRAM} came with the code: nothing is compiled",))
    file, name = _handler(tree, handler)
    has_pubspec = (tree / PUBSPEC).exists()
    package = _package_name(read(tree, PUBSPEC)) if has_pubspec else "function"
    written = {} if has_pubspec else {PUBSPEC: _ALONE}
    written[f"{BUILD}/{PUBSPEC}"] = _ROOT.format(package=package)
    written[ENTRY] = _MAIN.format(uri=_uri(file, package), handler=name)
    is_locked = (tree / LOCK).exists()
    if is_locked:
        written[f"{BUILD}/{LOCK}"] = read(tree, LOCK)
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file():
            written[f"{BUILD}/hearth/{path.relative_to(PACKAGE).as_posix()}"] = path.read_text()
    says = f"{file} with {PUBSPEC}" if has_pubspec else file
    return Found(Plan("dart", says, trees=(".",), written=written, pinned=is_locked))


def require_sdk(settings: Settings) -> None:
    """BuildFailed unless this node was told of a Dart SDK."""
    if settings.dart_sdk == Path() and not settings.dart_base_image:
        raise BuildFailed(
            f"there is no {PROGRAM} in the code, and this node has no Dart SDK to compile one: set "
            "HEARTH_DART_SDK or HEARTH_DART_BASE_IMAGE and run `hearth images build`, or deploy "
            f"what `dart compile exe` made as {PROGRAM}"
        )


def _handler(tree: Path, handler: str) -> tuple[str, str]:
    """The file and the function's name that `main.handler` means."""
    path, dot, name = handler.rpartition(".")
    if not dot or not path or not _IDENTIFIER.fullmatch(name):
        raise BuildFailed(f"handler {handler!r} is not file.function")
    if name.startswith("_"):
        raise BuildFailed(f"handler {name!r} is private to its file: Dart hides what begins with _")
    places = [f"{folder}{path}.dart" for folder in ("lib/", "bin/", "")]
    for place in places:
        if (tree / place).is_file():
            return place, name
    raise BuildFailed(f"handler {handler!r}: there is none of {', '.join(places)}")


def _package_name(pubspec: str) -> str:
    found = _PACKAGE_NAME.search(pubspec)
    if found is None:
        raise BuildFailed(f"{PUBSPEC} has no name that a Dart package may have")
    if found[1] in _OWN_NAMES:
        raise BuildFailed(f"{PUBSPEC}: the name {found[1]} is taken by Hearth's own package")
    return found[1]


def _uri(file: str, package: str) -> str:
    """How the entry imports the file: by its package where it has such a name, so that no library
    is there twice; else by its place."""
    if file.startswith("lib/"):
        return f"package:{package}/{file.removeprefix('lib/')}"
    return f"../../../{file}"
