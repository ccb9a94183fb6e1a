"""Only code that this installation compiled, for this engine and that archive, is handed on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from core.errors import BuildFailed, PlatformFault
from executor.wasm_artifacts import Facts, Signer, engine_here, find_module
from runtimes.wasm.hearth_wasm import naming

CODE = b"native code"
ARCHIVE, OTHER = "a" * 64, "b" * 64
FACTS = Facts(engine_here(), ARCHIVE, "c" * 64, hashlib.sha256(CODE).hexdigest())


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    (tmp_path / "data").mkdir()
    return Signer(tmp_path / "data")


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[[Facts], Path]:
    """A directory with code and these facts."""

    def write(facts: Facts, code: bytes = CODE) -> Path:
        folder = tmp_path / "artifact"
        folder.mkdir(exist_ok=True)
        for name, data in (
            (naming.FACTS, json.dumps(asdict(facts)).encode()),
            (naming.MODULE, code),
        ):
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_bytes(data)
            (folder / name).chmod(0o644)
        return folder

    return write


def test_what_was_signed_here_fits(signer: Signer, artifact: Callable[..., Path]) -> None:
    folder = artifact(signer.sign(FACTS))
    assert signer.fits(folder, ARCHIVE)
    assert signer.fits(folder, ARCHIVE)  # from memory


@pytest.mark.parametrize(
    "changes",
    [{"mac": ""}, {"mac": "0" * 64}, {"source": "d" * 64}, {"archive": OTHER}, {"compiled": OTHER}],
)
def test_any_changed_fact_is_noticed(
    signer: Signer, artifact: Callable[..., Path], changes: dict[str, str]
) -> None:
    signed = replace(signer.sign(FACTS), **changes)
    assert not signer.fits(artifact(signed), signed.archive)


def test_changed_code_is_noticed_also_after_it_was_good(
    signer: Signer, artifact: Callable[..., Path]
) -> None:
    signed = signer.sign(FACTS)
    assert signer.fits(artifact(signed), ARCHIVE)
    assert not signer.fits(artifact(signed, CODE + b"!"), ARCHIVE)


def test_code_for_another_engine_or_archive_does_not_fit(
    signer: Signer, artifact: Callable[..., Path]
) -> None:
    assert not signer.fits(artifact(signer.sign(replace(FACTS, engine="another"))), ARCHIVE)
    assert not signer.fits(artifact(signer.sign(FACTS)), OTHER)


def test_another_installations_signature_means_nothing(
    tmp_path: Path, signer: Signer, artifact: Callable[..., Path]
) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = Signer(tmp_path / "theirs").sign(FACTS)
    assert not signer.fits(artifact(theirs), ARCHIVE)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"engine": 1}', b"\xff", b"[" * 4000])
def test_facts_that_cannot_be_read_do_not_fit(
    signer: Signer, artifact: Callable[..., Path], text: bytes
) -> None:
    folder = artifact(signer.sign(FACTS))
    (folder / naming.FACTS).write_bytes(text)
    assert not signer.fits(folder, ARCHIVE)


def test_a_file_that_others_may_write_or_a_link_does_not_fit(
    signer: Signer, artifact: Callable[..., Path], tmp_path: Path
) -> None:
    folder = artifact(signer.sign(FACTS))
    (folder / naming.MODULE).chmod(0o666)
    assert not signer.fits(folder, ARCHIVE)
    (folder / naming.MODULE).rename(tmp_path / "code")
    (folder / naming.MODULE).symlink_to(tmp_path / "code")
    assert not signer.fits(folder, ARCHIVE)


def test_the_key_is_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    first = Signer(tmp_path).sign(FACTS)
    assert Signer(tmp_path).sign(FACTS) == first
    assert (tmp_path / "wasm.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["wasm.key"]


def test_a_key_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "wasm.key").write_bytes(b"short")
    with pytest.raises(PlatformFault, match=r"wasm\.key is not a key"):
        Signer(tmp_path).sign(FACTS)


def test_the_module_of_an_archive_is_found(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="found: none"):
        find_module(tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "a.wasm").write_bytes(b"1")
    assert find_module(tmp_path).name == "a.wasm"
    (tmp_path / "b.wasm").write_bytes(b"2")
    with pytest.raises(BuildFailed, match=r"found: b\.wasm, build/a\.wasm"):
        find_module(tmp_path)
    (tmp_path / "main.wasm").symlink_to("/etc/passwd")
    with pytest.raises(BuildFailed, match="found: b"):
        find_module(tmp_path)
    (tmp_path / "main.wasm").unlink()
    (tmp_path / "main.wasm").write_bytes(b"3")
    assert find_module(tmp_path).name == "main.wasm"
