"""Dependencies are installed for real: from the package index, inside the walled container."""

from __future__ import annotations

import json
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.model import BuildStatus, Version, VersionStatus
from executor.build_sandbox import BuildSandbox
from storage.store import object_key
from tests.integration.builds.conftest import Workshop, containers_of, eventually

pytestmark = pytest.mark.podman

HASH = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
PINNED = f"six==1.17.0 \\\n    --hash=sha256:{HASH}\n"

Files = dict[str, str | bytes]


def python(requirements: str, **more: str) -> Files:
    return {"main.py": "import six", "requirements.txt": requirements, **more}


def node(**package: Any) -> Files:
    return {"main.mjs": "", "package.json": json.dumps({"name": "a", **package})}


@pytest.fixture
def layer_of(
    workshop_with_podman: Workshop, tmp_path: Path
) -> Callable[[Version], tarfile.TarFile]:
    """What was installed for a version."""

    def fetch(version: Version) -> tarfile.TarFile:
        assert version.status is VersionStatus.ACTIVE, workshop_with_podman.log_of(version)
        _, digest = version.layers
        path = tmp_path / digest
        workshop_with_podman.store.fetch(object_key(version.function_id, digest), path)
        return tarfile.open(path)

    return fetch


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each installation in a container, as it happens."""
    happened: list[str] = []
    run = BuildSandbox.run

    def counted(self: BuildSandbox, wanted: Any, **more: Any) -> int:
        happened.append(wanted.image)
        return run(self, wanted, **more)

    monkeypatch.setattr(BuildSandbox, "run", counted)
    return happened


def test_requirements_become_a_layer_with_compiled_code_that_stays_valid(
    workshop_with_podman: Workshop, layer_of: Callable[[Version], tarfile.TarFile]
) -> None:
    shop = workshop_with_podman
    version = shop.build(shop.deploy(python("six\n")))
    with layer_of(version) as layer:
        names = layer.getnames()
        assert ".hearth/site-packages/six.py" in names
        compiled = ".hearth/site-packages/__pycache__/six.cpython-313.pyc"
        file = layer.extractfile(compiled)
        assert file is not None
        # Flags 1: checked by hash, and not even that. By time it would never match: the layer's
        # files all bear one.
        assert int.from_bytes(file.read(8)[4:], "little") == 1
    assert shop.gateway.asked[-1]["layers"] == list(version.layers)
    log = shop.log_of(version)
    assert "Successfully installed six-" in log
    assert log.splitlines()[-1].startswith("ready: ")


def test_the_same_list_is_not_installed_twice_in_one_namespace_but_in_each(
    workshop_with_podman: Workshop, installs: list[str]
) -> None:
    shop = workshop_with_podman
    builder = shop.builder()

    def build(files: Files, **where: str) -> Version:
        version = shop.deploy(files, **where)
        builder.build(version.id)
        return shop.catalog.version_by_id(version.id)

    first = build(python(PINNED))
    again = build(python(PINNED, **{"other.py": "1"}))
    other = build(python(PINNED), name="other")
    assert len(installs) == 1
    assert first.layers[1] == again.layers[1] == other.layers[1]
    assert shop.store.exists(object_key(other.function_id, other.layers[1]))
    assert "reused" in shop.log_of(again)
    build(python(PINNED), namespace="elsewhere")
    assert len(installs) == 2, "nothing is shared between namespaces"
    build(python(PINNED + "# changed\n"))
    assert len(installs) == 3


def test_a_list_that_is_not_exact_is_reused_for_a_day_and_an_exact_one_for_ever(
    workshop_with_podman: Workshop, installs: list[str]
) -> None:
    shop = workshop_with_podman
    for requirements in ("six\n", PINNED):
        assert shop.build(shop.deploy(python(requirements))).status is VersionStatus.ACTIVE
    for path in (shop.settings.data_dir / "build-cache" / "default").iterdir():
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "at": record["at"] - 25 * 3600}))
    for requirements in ("six\n", PINNED):
        assert shop.build(shop.deploy(python(requirements))).status is VersionStatus.ACTIVE
    assert len(installs) == 3


def test_a_layer_that_is_gone_from_the_store_is_made_again(
    workshop_with_podman: Workshop, installs: list[str]
) -> None:
    shop = workshop_with_podman
    first = shop.build(shop.deploy(python(PINNED)))
    shop.store.delete(object_key(first.function_id, first.layers[1]))
    second = shop.build(shop.deploy(python(PINNED)))
    assert second.status is VersionStatus.ACTIVE
    assert shop.store.exists(object_key(second.function_id, second.layers[1]))
    assert len(installs) == 2


def test_a_package_that_does_not_exist_fails_with_pips_own_words(
    workshop_with_podman: Workshop,
) -> None:
    shop = workshop_with_podman
    version = shop.build(shop.deploy(python("hearth-no-such-package-anywhere==9\n")))
    assert version.status is VersionStatus.FAILED
    assert version.error is not None
    assert "No matching distribution found for hearth-no-such-package-anywhere==9" in version.error
    assert shop.log_of(version).splitlines()[-1] == f"failed: {version.error}"
    assert len(version.layers) == 0


def test_a_package_that_must_be_compiled_fails_with_a_hint(workshop_with_podman: Workshop) -> None:
    shop = workshop_with_podman
    setup = (
        "from setuptools import Extension, setup\n"
        "setup(name='c', version='1', ext_modules=[Extension('c', ['c.c'])])"
    )
    files = python("./libs/c\n", **{"libs/c/setup.py": setup, "libs/c/c.c": "int x;"})
    version = shop.build(shop.deploy(files))
    assert version.status is VersionStatus.FAILED
    assert "hint: there is no compiler" in shop.log_of(version)


def test_a_setup_that_plants_links_out_of_the_layer_gets_nothing_kept(
    workshop_with_podman: Workshop,
) -> None:
    shop = workshop_with_podman
    setup = (
        "import os\n"
        "from setuptools import setup\n"
        "if not os.path.lexists('/out/layer/stolen'):\n"
        "    os.symlink('/etc/shadow', '/out/layer/stolen')\n"
        "setup(name='evil', version='1', py_modules=[])"
    )
    version = shop.build(shop.deploy(python("./evil\n", **{"evil/setup.py": setup})))
    assert version.status is VersionStatus.FAILED
    assert version.error is not None
    assert "cannot be kept" in version.error


def test_node_packages_become_a_layer_and_its_own_scripts_do_not_run(
    workshop_with_podman: Workshop, layer_of: Callable[[Version], tarfile.TarFile]
) -> None:
    shop = workshop_with_podman
    files = node(
        dependencies={"is-number": "^7.0.0"},
        devDependencies={"hearth-no-such-package-anywhere": "1"},
        scripts={"prepare": "exit 1", "install": "exit 1"},
    )
    version = shop.build(shop.deploy(files, runtime="node24"))
    with layer_of(version) as layer:
        assert "node_modules/is-number/index.js" in layer.getnames()


def test_a_lock_is_installed_exactly_or_not_at_all(
    workshop_with_podman: Workshop, layer_of: Callable[[Version], tarfile.TarFile]
) -> None:
    shop = workshop_with_podman
    lock = {
        "name": "a",
        "lockfileVersion": 3,
        "packages": {
            "": {"name": "a", "dependencies": {"is-number": "^6.0.0"}},
            "node_modules/is-number": {"version": "6.0.0"},
        },
    }
    files = node(dependencies={"is-number": "^6.0.0"})
    version = shop.build(
        shop.deploy({**files, "package-lock.json": json.dumps(lock)}, runtime="node24")
    )
    with layer_of(version) as layer:
        package = layer.extractfile("node_modules/is-number/package.json")
        assert package is not None
        assert json.load(package)["version"] == "6.0.0"
    assert "$ npm ci" in shop.log_of(version)
    files = node(dependencies={"is-number": "^7.0.0"})
    other = shop.build(
        shop.deploy({**files, "package-lock.json": json.dumps(lock)}, runtime="node24")
    )
    assert other.status is VersionStatus.FAILED


def test_a_builder_killed_while_it_installs_leaves_nothing_and_loses_nothing(
    workshop_with_podman: Workshop,
) -> None:
    shop = workshop_with_podman
    setup = "import time\nprint('here', flush=True)\ntime.sleep(1000)"
    version = shop.deploy(python("./slow\n", **{"slow/setup.py": setup}))
    first = shop.start_builder()
    shop.jobs.enqueue("build", version_id=version.id)
    eventually(lambda: "$ pip install" in shop.log_of(version), "the log streams to the catalog")
    eventually(lambda: "Getting requirements" in shop.log_of(version), "the setup runs")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert len(containers_of(shop.settings.node)) == 1
    second = shop.start_builder(HEARTH_BUILD_TIMEOUT_S="3")
    build = shop.ended(version)
    assert (build.status, build.attempts) == (BuildStatus.FAILED, 2)
    assert "took longer than 3 s" in build.log
    assert "removed 1 containers of builders that died" in shop.said()
    second.send_signal(signal.SIGTERM)
    assert second.wait(100) == 0
    assert containers_of(shop.settings.node) == []
    assert list((shop.settings.data_dir / "builds").iterdir()) == []


def test_a_builder_asked_to_stop_while_it_installs_hands_back_at_once(
    workshop_with_podman: Workshop,
) -> None:
    shop = workshop_with_podman
    version = shop.deploy(python("./slow\n", **{"slow/setup.py": "import time; time.sleep(1000)"}))
    builder = shop.start_builder()
    shop.jobs.enqueue("build", version_id=version.id)
    eventually(lambda: "$ pip install" in shop.log_of(version), "the installation begins")
    builder.send_signal(signal.SIGTERM)
    assert builder.wait(100) == 0
    build = shop.catalog.build(version.id)
    assert (build.status, build.attempts) == (BuildStatus.QUEUED, 0)
    assert containers_of(shop.settings.node) == []


def test_a_function_that_installs_nothing_does_not_wait_for_those_that_do(
    workshop_with_podman: Workshop,
) -> None:
    shop = workshop_with_podman
    slow = python("./slow\n", **{"slow/setup.py": "import time; time.sleep(1000)"})
    first, second = (shop.deploy(slow, name=name) for name in ("first", "second"))
    builder = shop.start_builder(HEARTH_BUILDS_MAX="1")
    for version in (first, second):
        shop.jobs.enqueue("build", version_id=version.id)
    both = (first, second)
    eventually(lambda: any("$ pip" in shop.log_of(v) for v in both), "one installs")
    eventually(lambda: any("waiting for another" in shop.log_of(v) for v in both), "one waits")
    quick = shop.deploy({"main.py": ""}, name="quick")
    shop.jobs.enqueue("build", version_id=quick.id)
    assert shop.ended(quick).status is BuildStatus.SUCCEEDED
    builder.send_signal(signal.SIGTERM)
    assert builder.wait(100) == 0
    assert {shop.catalog.build(v.id).status for v in both} == {BuildStatus.QUEUED}


def test_podman_away_means_later_not_failed(workshop: Workshop) -> None:
    version = workshop.build(workshop.deploy(python("six\n")))
    assert version.status is VersionStatus.BUILDING
    assert workshop.catalog.build(version.id).status is BuildStatus.QUEUED
    assert "to be tried again: podman:" in workshop.log_of(version)
