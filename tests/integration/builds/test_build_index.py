"""Installations from an index of our own, behind a password: what it shows, and how they fail."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from core.limits import MIB
from core.model import Version, VersionStatus
from executor.build_sandbox import BuildSandbox
from storage.store import object_key
from tests.fixtures.package_index import PASSWORD, USER, PackageIndex
from tests.integration.builds.conftest import Workshop, containers_of

pytestmark = pytest.mark.podman

PROXY = "http://user:pr0xyword@192.0.2.99:9"  # nothing here is asked through it
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), "pr0xyword")
Files = dict[str, str | bytes]


@pytest.fixture
def deploy(
    workshop_with_podman: Workshop, package_index: PackageIndex
) -> Callable[..., tuple[Version, str]]:
    """Build a function whose packages come from our index alone: its version, and its log."""
    shop = workshop_with_podman
    secret = f"{USER}:{quote(PASSWORD, safe='')}"
    file = shop.settings.data_dir / "indexes.toml"
    file.touch(0o600)
    file.write_text(
        f"[default]\n"
        f'pip_index_url = "{package_index.url("/simple/", secret=secret)}"\n'
        f'npm_registry = "{package_index.url("/npm/", secret=secret)}"\n'
        f"[default.functions.scoped]\n"
        f'npm_scopes = {{ "@own" = "'
        f'{package_index.url("/npm/", secret=":" + quote(PASSWORD, safe=""))}" }}\n'
    )

    def run(files: Files, runtime: str = "python3.13", **more: Any) -> tuple[Version, str]:
        name = more.pop("name", "hello")
        settings = {"build_indexes": file, **more}
        version = shop.build(shop.deploy(files, runtime=runtime, name=name), **settings)
        return version, shop.log_of(version)

    return run


def python(*requirements: str) -> Files:
    return {"main.py": "", "requirements.txt": "\n".join(requirements)}


def node(**package: Any) -> Files:
    return {"main.mjs": "", "package.json": json.dumps({"name": "a", **package})}


def files_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def offer_some(package_index: PackageIndex) -> None:
    """A wheel, a package of a scope, and one that fails and talks."""
    # It prints what it can read: that much an installation may do, and the log hides it.
    talks = (
        "import os, pathlib, sys\n"
        "found = pathlib.Path('/src/settings/netrc').read_text(), os.environ.get('https_proxy')\n"
        "def build_wheel(*_):\n"
        "    print(*found, 'was read', flush=True)\n"
        "    sys.exit(1)\n"
    )
    package_index.source("talker", "1", talks)
    package_index.wheel("quiet", "2", {"quiet.py": b"x = 1\n"})
    package_index.package("@own/lib", "1.0.0", files={"index.js": b"module.exports = 1\n"})


def test_a_password_reaches_the_tools_and_nothing_that_can_be_seen(
    deploy: Callable[..., tuple[Version, str]],
    workshop_with_podman: Workshop,
    package_index: PackageIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = workshop_with_podman
    inspected: list[str] = []
    run = BuildSandbox.run

    def watched(self: BuildSandbox, wanted: Any, *, write: Any, tick: Any) -> int:
        def look() -> None:
            for container in containers_of(shop.settings.node):
                command = ["podman", "inspect", container]
                inspected.append(subprocess.run(command, capture_output=True, text=True).stdout)
            tick()

        return run(self, wanted, write=write, tick=look)

    monkeypatch.setattr(BuildSandbox, "run", watched)
    offer_some(package_index)
    version, log = deploy(python("quiet"))
    assert version.status is VersionStatus.ACTIVE, log
    assert f"from {package_index.url('/simple/')}" in log
    assert "installed 1 packages in" in log
    assert "quiet 2 (" in log
    scoped, told = deploy(node(dependencies={"@own/lib": "1"}), "node24", name="scoped")
    assert scoped.status is VersionStatus.ACTIVE, told
    monkeypatch.setenv("https_proxy", PROXY)
    failed, said = deploy(python("talker"), name="talker")
    assert failed.status is VersionStatus.FAILED
    assert "http://***@192.0.2.99:9 was read" in said
    assert any("netrc" in text for text in inspected), "the containers were looked at"
    layers = b""
    for made in (version, scoped):
        shop.store.fetch(object_key(made.function_id, made.layers[1]), shop.settings.run_dir / "l")
        layers += (shop.settings.run_dir / "l").read_bytes()
    everything = "".join([log, told, said, str(failed.error), *inspected]).encode() + layers
    everything += files_below(shop.settings.data_dir / "build-cache")
    everything += b"".join(str(p).encode() for p in shop.settings.data_dir.rglob("*"))
    for secret in SECRETS:
        assert secret.encode() not in everything
    assert b"node_modules/@own/lib/index.js" in layers
    assert list((shop.settings.data_dir / "builds").iterdir()) == []


def test_a_namespace_without_an_entry_has_no_part_in_anothers_index(
    deploy: Callable[..., tuple[Version, str]],
    workshop_with_podman: Workshop,
    package_index: PackageIndex,
) -> None:
    package_index.wheel("quiet", "2", {"quiet.py": b""})
    shop = workshop_with_podman
    file = shop.settings.data_dir / "indexes.toml"
    version = shop.deploy(python("quiet==2"), namespace="elsewhere")
    built = shop.build(version, build_indexes=file, pip_index_url=package_index.url("/simple/"))
    assert built.status is VersionStatus.FAILED
    assert {status for _, status in package_index.asked} == {401}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (["top==1", "low==2"], "The user requested low==2; top 1 depends on low==1"),
        (["low==1 --hash=sha256:" + "0" * 64], "low==1 is not the file whose hash the list names"),
        (["native==3"], "native would have to be compiled: use a release that has a wheel"),
    ],
)
def test_a_python_package_that_cannot_be_installed_is_named(
    deploy: Callable[..., tuple[Version, str]],
    package_index: PackageIndex,
    wanted: list[str],
    says: str,
) -> None:
    package_index.wheel("low", "1", {"low.py": b""})
    package_index.wheel("low", "2", {"low.py": b""})
    package_index.wheel("top", "1", {"top.py": b""}, needs=["low==1"])
    fails = "error: command 'gcc' failed: No such file or directory"
    package_index.source("native", "3", f'def build_wheel(*_): raise SystemExit("{fails}")')
    version, log = deploy(python(*wanted))
    assert version.status is VersionStatus.FAILED
    assert version.error is not None
    assert says in version.error, log


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"nowhere": "9"}, "The requested resource 'nowhere@9' could not be found"),
        ({"top": "1", "low": "2"}, 'peer low@"1" from top@1.0.0'),
        ({"native": "3"}, "native would have to be compiled: use a release that has a prebuilt"),
    ],
)
def test_a_node_package_that_cannot_be_installed_is_named(
    deploy: Callable[..., tuple[Version, str]],
    package_index: PackageIndex,
    wanted: dict[str, str],
    says: str,
) -> None:
    package_index.package("low", "1.0.0")
    package_index.package("low", "2.0.0")
    package_index.package("top", "1.0.0", peerDependencies={"low": "1"})
    package_index.package("native", "3.0.0", scripts={"install": "gcc -c native.c"})
    version, log = deploy(node(dependencies=wanted), "node24")
    assert version.status is VersionStatus.FAILED
    assert version.error is not None
    assert says in version.error, log


def test_an_install_script_that_hangs_ends_with_the_build_and_leaves_nothing(
    deploy: Callable[..., tuple[Version, str]],
    workshop_with_podman: Workshop,
    package_index: PackageIndex,
) -> None:
    package_index.package("slow", "1.0.0", scripts={"postinstall": "sleep 1000 & sleep 1000"})
    version, log = deploy(node(dependencies={"slow": "1"}), "node24", build_timeout_s=3.0)
    assert version.status is VersionStatus.FAILED
    assert "took longer than 3 s (HEARTH_BUILD_TIMEOUT_S)" in str(version.error), log
    shop = workshop_with_podman
    assert containers_of(shop.settings.node) == []
    assert list((shop.settings.data_dir / "builds").iterdir()) == []
    assert not (shop.settings.data_dir / "build-cache").exists()


def test_a_version_that_is_too_large_names_its_largest_packages(
    deploy: Callable[..., tuple[Version, str]],
    package_index: PackageIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.installed.VERSION_BYTES_MAX", 25 * MIB)
    package_index.wheel("huge", "1", {"huge/data.bin": bytes(20 * MIB)}, needs=["big"])
    package_index.wheel("big", "2.1", {"big/data.bin": bytes(6 * MIB)}, needs=["small"])
    package_index.wheel("small", "3", {"small.py": b"x" * 200_000})
    version, log = deploy(python("huge"))
    assert version.status is VersionStatus.FAILED
    assert version.error is not None
    assert "at most 25.0 MiB are taken" in version.error, log
    assert "the largest: huge 1 20.0 MiB, big 2.1 6.0 MiB, small 3 0.2 MiB" in version.error
    within, log = deploy(python("big"))
    assert within.status is VersionStatus.ACTIVE, log
    code = {"big.bin": bytes(20 * MIB)}
    grown, log = deploy({**python("big"), **code})  # reused packages count as installed ones do
    assert grown.error is not None
    assert "big 2.1 6.0 MiB, small 3 0.2 MiB, the code itself 20.0 MiB" in grown.error
    assert "reused" in log


def test_links_to_the_archives_own_packages_and_workspaces_are_installed(
    deploy: Callable[..., tuple[Version, str]], workshop_with_podman: Workshop
) -> None:
    inner = json.dumps({"name": "inner", "version": "1.0.0"})
    files = node(dependencies={"inner": "file:libs/inner"}, workspaces=["packages/*"])
    files |= {"libs/inner/package.json": inner, "packages/w/package.json": '{"name": "w"}'}
    made, log = deploy(files, "node24")
    assert made.status is VersionStatus.ACTIVE, log
    shop = workshop_with_podman
    path = shop.settings.run_dir / "layer"
    shop.store.fetch(object_key(made.function_id, made.layers[1]), path)
    with tarfile.open(path) as layer:
        links = {member.name: member.linkname for member in layer if member.issym()}
    assert links == {"node_modules/inner": "../libs/inner", "node_modules/w": "../packages/w"}


def test_a_shrinkwrap_is_followed_and_goes_before_a_lock(
    deploy: Callable[..., tuple[Version, str]],
    workshop_with_podman: Workshop,
    package_index: PackageIndex,
) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        package_index.package("low", version, scripts={"postinstall": "echo made > by-script"})

    def lock(version: str) -> str:
        low = {"hasInstallScript": True}
        tree = {"": {"dependencies": {"low": "1"}}, "node_modules/low": {**low, "version": version}}
        return json.dumps({"name": "a", "lockfileVersion": 3, "packages": tree})

    files = node(dependencies={"low": "1"})
    locks = {"npm-shrinkwrap.json": lock("1.1.0"), "package-lock.json": lock("1.0.0")}
    made, log = deploy({**files, **locks}, "node24")
    assert made.status is VersionStatus.ACTIVE, log
    shop = workshop_with_podman
    path = shop.settings.run_dir / "layer"
    shop.store.fetch(object_key(made.function_id, made.layers[1]), path)
    with tarfile.open(path) as layer:
        told = layer.extractfile("node_modules/low/package.json")
        assert told is not None
        assert json.load(told)["version"] == "1.1.0"
        assert "node_modules/low/by-script" in layer.getnames()
    assert "package.json and npm-shrinkwrap.json" in log
    assert "low 1.1.0 (" in log
