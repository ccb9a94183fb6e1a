"""Modules compiled for real: by the builder at the deploy, by the node where that does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import FunctionInitFailed
from core.model import Version, VersionStatus
from executor.build_sandbox import BuildSandbox
from gateway.artifacts import Artifacts
from runtimes.wasm.hearth_wasm import naming
from storage.code_cache import CodeCache
from storage.store import object_key
from tests.conformance.modules import COMMAND, wat
from tests.integration.builds.conftest import Workshop

pytestmark = pytest.mark.podman

ECHO = wat(COMMAND.format(""))


@pytest.fixture
def shop(workshop_with_podman: Workshop) -> Workshop:
    (workshop_with_podman.settings.data_dir / "tmp").mkdir()
    return workshop_with_podman


@pytest.fixture
def node(shop: Workshop, tmp_path: Path) -> Artifacts:
    """The gateway's half, with a cache of its own."""
    cache = CodeCache(tmp_path / "code", shop.store, 1 << 30)
    return Artifacts(shop.settings, cache, shop.store)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each compilation in a container, as it happens."""
    happened: list[str] = []
    run = BuildSandbox.run

    def counted(self: BuildSandbox, wanted: Any, **more: Any) -> int:
        assert not wanted.has_network
        happened.append(wanted.image)
        return run(self, wanted, **more)

    monkeypatch.setattr(BuildSandbox, "run", counted)
    return happened


def deploy(shop: Workshop, files: dict[str, str | bytes], handler: str = "_start") -> Version:
    return shop.build(shop.deploy(files, runtime="wasm", handler=handler))


def test_a_module_is_compiled_once_and_the_node_takes_what_the_deploy_made(
    shop: Workshop, node: Artifacts, compiled: list[str]
) -> None:
    version = deploy(shop, {"main.wasm": ECHO})
    assert version.status is VersionStatus.ACTIVE, shop.log_of(version)
    assert len(version.layers) == 2
    tree = node.pinned_tree(version)
    assert {path.name for path in tree.iterdir()} == {naming.MODULE, naming.FACTS}
    for path in tree.iterdir():
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o644)
    assert node.pinned_tree(version) == tree
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"main.wasm": ECHO[:-3]}, "unexpected end"),
        ({"main.py": "pass"}, "the archive must hold main.wasm"),
    ],
)
def test_what_cannot_run_fails_the_build_in_one_line(
    shop: Workshop, files: dict[str, str | bytes], says: str
) -> None:
    version = deploy(shop, files)
    assert version.status is VersionStatus.FAILED
    assert version.error is not None
    assert says in version.error


def test_code_that_does_not_fit_this_node_is_compiled_anew_and_kept(
    shop: Workshop, node: Artifacts, compiled: list[str]
) -> None:
    version = deploy(shop, {"main.wasm": ECHO})
    (shop.settings.data_dir / "wasm.key").unlink()  # another installation's, from here on
    tree = node.pinned_tree(version)
    assert len(compiled) == 2
    again = Artifacts(shop.settings, node._cache, shop.store)
    assert again.pinned_tree(version) == tree
    assert len(compiled) == 2


def test_an_archive_cannot_pass_for_compiled_code(
    shop: Workshop, node: Artifacts, compiled: list[str]
) -> None:
    good = node.pinned_tree(deploy(shop, {"main.wasm": ECHO}))
    forged: dict[str, str | bytes] = {path.name: path.read_bytes() for path in good.iterdir()}
    forged[naming.MODULE] = b"\x7fELF" + bytes(100)
    version = deploy(shop, {**forged, "main.wasm": ECHO})
    only_archive = replace(version, layers=version.layers[:1])
    twice = replace(version, layers=(version.archive_digest, version.archive_digest))
    for told in (only_archive, twice):
        tree = node.pinned_tree(told)
        assert json.loads((tree / naming.FACTS).read_text())["archive"] == version.archive_digest
        assert (tree / naming.MODULE).read_bytes() != forged[naming.MODULE]


def test_a_module_that_this_node_cannot_compile_is_the_functions_error(
    shop: Workshop, node: Artifacts
) -> None:
    version = deploy(shop, {"main.wasm": ECHO})
    shop.store.delete(object_key(version.function_id, version.layers[1]))
    config = replace(version.config, handler="absent")
    with pytest.raises(FunctionInitFailed, match="no handler 'absent'"):
        node.pinned_tree(replace(version, config=config))


def test_compiling_is_bounded_in_memory(shop: Workshop) -> None:
    body = "local.get 0 i32.load local.get 0 i32.add local.set 0 " * 60_000
    text = f'(module (memory 1) (func (param i32) {body}) (func (export "_start")))'
    version = shop.build(
        shop.deploy({"main.wasm": wat(text)}, runtime="wasm", handler="_start"), build_memory_mb=24
    )
    assert version.status is VersionStatus.FAILED
    assert "compiling the module ran out of memory" in str(version.error)
