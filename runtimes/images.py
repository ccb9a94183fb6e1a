"""`python -m runtimes.images build|list`: makes the images of the runtimes, or tells of them.

The base is a Debian made locally by mmdebstrap (or an official image that a setting names);
what it lacks comes from locked wheels. Nothing is rebuilt while its inputs stand.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.settings import Settings, SettingsInvalid
from runtimes import recipes as book
from runtimes.recipes import Recipe, Wheel

OUTPUT_LINES_SHOWN = 30
NO_DART = "HEARTH_DART_SDK or HEARTH_DART_BASE_IMAGE says where a Dart SDK is"


class ImageFailed(Exception):
    """An image could not be made; the message says which step, and what to do."""


@dataclass(frozen=True, slots=True)
class Kitchen:
    """Where images are made: the settings and the environment of every child process."""

    settings: Settings
    environ: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Build contexts, kept so that a changed shim copies nothing else."""
        return self.settings.data_dir / "images"

    def base_of(self, recipe: Recipe) -> str:
        """The image a recipe starts from."""
        named = {
            "python": self.settings.python_base_image,
            "custom": self.settings.custom_base_image,
            "node": self.settings.node_base_image,
            "dart": "" if self.sdk_of(recipe) else self.settings.dart_base_image,
        }
        return named.get(recipe.runtime.short, "") or book.BASE_IMAGE

    def sdk_of(self, recipe: Recipe) -> Path | None:
        """The directory of an SDK that goes into the image; None when none does."""
        named = self.settings.dart_sdk
        return named if recipe.runtime.short == "dart" and named != Path() else None

    def can_make(self, recipe: Recipe) -> bool:
        """Whether the settings say all that it takes: of Dart nothing can be had locally."""
        if recipe.runtime.short != "dart":
            return True
        return self.sdk_of(recipe) is not None or bool(self.settings.dart_base_image)

    def inputs_of(self, recipe: Recipe) -> str:
        """The digest of all that goes into the image."""
        base = self.base_of(recipe)
        state = _image_id(self, base)
        if sdk := self.sdk_of(recipe):
            state += f" {sdk} {_sdk_version(sdk)}"
        return book.digest(recipe, base, state)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. 0 when every image asked for stands."""
    asked = _arguments(argv)
    try:
        kitchen = open_kitchen(Settings.from_env())
        if asked.command == "list":
            _list(kitchen, as_json=asked.json)
        else:
            build(kitchen, asked.names, refresh=asked.refresh)
    except (ImageFailed, SettingsInvalid) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hearth images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="make what is missing or out of date")
    make.add_argument("names", nargs="*", help="default all: base, python3.13, node24-builder …")
    make.add_argument("--refresh", action="store_true", help="the base anew, for Debian's updates")
    show = commands.add_parser("list", help="what there is")
    show.add_argument("--json", action="store_true")
    return parser.parse_args(argv)


def open_kitchen(settings: Settings) -> Kitchen:
    """The kitchen of this data directory; its containers.conf is made if it is not there."""
    if os.geteuid() != 0:
        raise ImageFailed("sandboxes run from root's images: run this as root or with sudo")
    environ = dict(os.environ)
    conf = settings.data_dir / "containers.conf"
    if "CONTAINERS_CONF" not in environ:
        if not conf.exists():
            # cli.host chooses the OCI runtime; a child, because imports only point downwards.
            _run([sys.executable, "-m", "cli.host"], environ, "choosing an OCI runtime")
        environ["CONTAINERS_CONF"] = str(conf)
    environ["PATH"] = os.pathsep.join([environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    # Not /tmp, which may be memory and may forbid device nodes, which mmdebstrap makes.
    environ.setdefault("TMPDIR", "/var/tmp")
    return Kitchen(settings, environ)


def build(kitchen: Kitchen, names: Sequence[str], *, refresh: bool = False) -> None:
    """Make the named images (all without a name) that are missing or out of date."""
    known = ["base", *(recipe.name for recipe in book.recipes())]
    for name in names:
        if name not in known:
            raise ImageFailed(f"no image is called {name!r}; there are: {', '.join(known)}")
    chosen = [recipe for recipe in book.recipes() if not names or recipe.name in names]
    for recipe in chosen:
        if not kitchen.can_make(recipe):
            if recipe.name in names:
                raise ImageFailed(f"{recipe.name}: {NO_DART}")
            _say(recipe.name, f"left out: {NO_DART}")
    chosen = [recipe for recipe in chosen if kitchen.can_make(recipe)]
    with _one_at_a_time(kitchen):
        if "base" in names or any(kitchen.base_of(r) == book.BASE_IMAGE for r in chosen):
            _build_base(kitchen, refresh=refresh)
        for base in sorted({kitchen.base_of(r) for r in chosen} - {book.BASE_IMAGE}):
            _pull(kitchen, base, refresh=refresh)
        built = [_build_recipe(kitchen, recipe) for recipe in chosen]
        if any(built):
            # What was replaced goes, unless a container still runs it; nobody else's image does.
            prune = [
                "podman",
                "image",
                "prune",
                "--force",
                "--filter",
                f"label={book.INPUTS_LABEL}",
            ]
            _run(prune, kitchen.environ, "removing the images that were replaced")


def _build_base(kitchen: Kitchen, *, refresh: bool) -> None:
    inputs = book.base_digest(kitchen.settings.debian_mirror)
    if not refresh and _label(kitchen, book.BASE_IMAGE) == inputs:
        _say("base", "up to date")
        return
    with _timed("base", f"a small Debian {book.SUITE}, by mmdebstrap"):
        environ = {**kitchen.environ, "SOURCE_DATE_EPOCH": str(book.SOURCE_DATE_EPOCH)}
        with tempfile.TemporaryDirectory(prefix="base-", dir=kitchen.folder) as folder:
            tar = Path(folder) / "base.tar"
            command = book.bootstrap_command(kitchen.settings.debian_mirror, tar)
            _run(command, environ, "making the base image")
            _run(book.import_command(tar, inputs), kitchen.environ, "importing the base image")


def _pull(kitchen: Kitchen, image: str, *, refresh: bool) -> None:
    """Have an image that a setting names; one made locally needs no registry."""
    if refresh or not _image_id(kitchen, image):
        with _timed("base", f"pulling {image}"):
            _run(["podman", "pull", "--quiet", image], kitchen.environ, f"pulling {image}")


def _build_recipe(kitchen: Kitchen, recipe: Recipe) -> bool:
    """Whether it had to be built."""
    if gone := recipe.missing():
        raise ImageFailed(f"{recipe.name}: {', '.join(gone)} is not in {recipe.runtime.folder}")
    base = kitchen.base_of(recipe)
    inputs = kitchen.inputs_of(recipe)
    if _label(kitchen, recipe.image) == inputs:
        _say(recipe.name, "up to date")
        return False
    with _timed(recipe.name, f"on {base}"):
        context = _context(kitchen, recipe, with_wheel=base == book.BASE_IMAGE)
        command = book.build_command(recipe, base, inputs, context)
        _run(command, kitchen.environ, f"building {recipe.image}")
        if _label(kitchen, recipe.image) != inputs:
            # Podman 4 leaves an image that its cache holds whole with the label that it had.
            fresh = [*command[:2], "--no-cache", *command[2:]]
            _run(fresh, kitchen.environ, f"building {recipe.image}")
    return True


def _context(kitchen: Kitchen, recipe: Recipe, *, with_wheel: bool) -> Path:
    """The build's context: `shim/` as it is now, and the wheel's parts once for each lock."""
    context = kitchen.folder / recipe.runtime.name
    shutil.rmtree(context / "shim", ignore_errors=True)
    (context / "shim").mkdir(parents=True)
    for path in recipe.sources():
        _place(path.read_bytes(), context / "shim" / recipe.place(path), 0o644)
    if recipe.runtime.short == "dart":
        _place_sdk(kitchen.sdk_of(recipe), context / "sdk")
    if recipe.wheel is not None:
        _place_wheel(kitchen, recipe.wheel, context, with_wheel=with_wheel)
    return context


def _place_sdk(sdk: Path | None, to: Path) -> None:
    """An SDK from this machine; nothing where the base brings its own."""
    shutil.rmtree(to, ignore_errors=True)
    if sdk is None:
        to.mkdir()
        return
    try:
        shutil.copytree(sdk, to, symlinks=True)
    except (OSError, shutil.Error) as error:
        raise ImageFailed(f"HEARTH_DART_SDK {sdk} cannot be copied: {error}") from error


def _sdk_version(sdk: Path) -> str:
    """What tells one SDK from another. ImageFailed when there is none."""
    program = sdk / "bin" / "dart"
    if not program.is_file():
        raise ImageFailed(f"HEARTH_DART_SDK is {sdk}, where there is no bin/dart")
    version = sdk / "version"
    return version.read_text().strip() if version.is_file() else str(program.stat().st_mtime_ns)


def _place_wheel(kitchen: Kitchen, wheel: Wheel, context: Path, *, with_wheel: bool) -> None:
    stamp = context / "wheel.lock"
    lock = wheel.lock.read_text() if with_wheel else "none"
    if not stamp.exists() or stamp.read_text() != lock:
        stamp.unlink(missing_ok=True)
        for part in {to.split("/")[0] for to in wheel.parts.values()}:
            shutil.rmtree(context / part, ignore_errors=True)
            (context / part).mkdir()
        if with_wheel:
            _unpack_wheel(kitchen, wheel, context)
        stamp.write_text(lock)


def _unpack_wheel(kitchen: Kitchen, wheel: Wheel, context: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="wheel-", dir=kitchen.folder) as folder:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        command += ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        command += ["--dest", folder, "--requirement", str(wheel.lock)]
        _run(command, kitchen.environ, f"downloading what {wheel.lock.name} locks")
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                to = _destination(wheel, entry.filename)
                if to is not None and not entry.is_dir():
                    mode = (entry.external_attr >> 16) & 0o111
                    _place(archive.read(entry), context / to, 0o755 if mode else 0o644)
    for name, target in wheel.links.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).symlink_to(target)


def _destination(wheel: Wheel, name: str) -> str | None:
    for start, to in wheel.parts.items():
        if name.startswith(start):
            return to + name.removeprefix(start)
    return None


def _place(data: bytes, to: Path, mode: int) -> None:
    """Write a file whose bytes, mode and time depend on nothing but its source."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(data)
    to.chmod(mode)
    os.utime(to, (book.SOURCE_DATE_EPOCH, book.SOURCE_DATE_EPOCH))


def _list(kitchen: Kitchen, *, as_json: bool) -> None:
    rows = list(_rows(kitchen))
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for row in rows:
        size = f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else "–"
        state = "ready" if row["ready"] else "out of date" if row["id"] else "missing"
        sys.stdout.write(f"{row['name']:<20} {state:<12} {size:>7}  {row['image']}\n")


def _rows(kitchen: Kitchen) -> Iterator[dict[str, Any]]:
    base_inputs = book.base_digest(kitchen.settings.debian_mirror)
    yield _row(kitchen, "base", book.BASE_IMAGE, base_inputs)
    for recipe in book.recipes():
        if kitchen.can_make(recipe):
            yield _row(kitchen, recipe.name, recipe.image, kitchen.inputs_of(recipe))


def _row(kitchen: Kitchen, name: str, image: str, inputs: str) -> dict[str, Any]:
    facts = _inspect(kitchen, image)
    ready = (facts.get("Labels") or {}).get(book.INPUTS_LABEL) == inputs
    return {
        "name": name,
        "image": image,
        "id": facts.get("Id", ""),
        "bytes": facts.get("Size", 0),
        "created": facts.get("Created", ""),
        "ready": ready,
    }


def _label(kitchen: Kitchen, image: str) -> str:
    labels = _inspect(kitchen, image).get("Labels") or {}
    return str(labels.get(book.INPUTS_LABEL, ""))


def _image_id(kitchen: Kitchen, image: str) -> str:
    return str(_inspect(kitchen, image).get("Id", ""))


def _inspect(kitchen: Kitchen, image: str) -> dict[str, Any]:
    """What the image store knows of an image; {} when it has none of that name."""
    command = ["podman", "image", "inspect", image]
    try:
        done = subprocess.run(
            command, env=dict(kitchen.environ), capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ImageFailed("podman is not installed; `make setup` installs it") from None
    if done.returncode:
        if "no such image" in done.stderr or "not known" in done.stderr:
            return {}
        raise ImageFailed(f"podman image inspect: {done.stderr.strip()}")
    facts: dict[str, Any] = json.loads(done.stdout)[0]
    return facts


def _run(command: Sequence[str], environ: Mapping[str, str], what: str) -> None:
    """Run to the end; ImageFailed with the last lines it wrote when it fails."""
    try:
        done = subprocess.run(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise ImageFailed(f"{command[0]} is not installed; `make setup` installs it") from None
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-OUTPUT_LINES_SHOWN:])
        raise ImageFailed(f"{what} failed ({command[0]}); `hearth doctor` may say why.\n{last}")


@contextmanager
def _one_at_a_time(kitchen: Kitchen) -> Iterator[None]:
    """Two builds of one data directory do not mix their contexts: the second waits."""
    kitchen.folder.mkdir(parents=True, exist_ok=True)
    with (kitchen.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _timed(name: str, what: str) -> Iterator[None]:
    _say(name, what)
    began = time.monotonic()
    yield
    _say(name, f"done in {time.monotonic() - began:.1f} s")


def _say(name: str, what: str) -> None:
    sys.stdout.write(f"image {name:<19} {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
