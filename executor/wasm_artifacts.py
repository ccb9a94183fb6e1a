"""Compiled WebAssembly: made of a module in a container, signed by the platform, and checked before
any host maps it, for it is native code. Nothing that users send passes for it: the signature binds
the code to the archive it came from, to its engine, and to this installation's key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from core.errors import BuildFailed, PlatformFault, SandboxBroken
from core.limits import WASM_ARTIFACT_BYTES_MAX, WASM_CHECKED_MAX, WASM_MODULE_BYTES_MAX
from executor.build_sandbox import OUTPUT, SOURCE, BuildSandbox, Installation
from runtimes.registry import RUNTIMES
from runtimes.wasm.hearth_wasm import naming

KEY_FILE = "wasm.key"
WASM = RUNTIMES["wasm"]

_KEY_BYTES = 32
_FORMAT = "hearth-wasm-1"
_FACTS_BYTES_MAX = 4096
_REFUSED = 3  # compiling.py's exit status: the module is at fault
_LOCKED = re.compile(r"^wasmtime==([\w.]+)", re.MULTILINE)
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What module.json says, with the signature over the rest of it."""

    engine: str
    archive: str  # sha256 of the archive that the module came in
    source: str  # sha256 of the module
    compiled: str  # sha256 of the code beside this file
    mac: str = ""

    def mac_by(self, key: bytes) -> str:
        """The signature."""
        told = [_FORMAT, self.engine, self.archive, self.source, self.compiled]
        return hmac.new(key, json.dumps(told).encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Compilation:
    """One module to compile."""

    source: Path
    archive: str  # sha256 of what it came in
    handler: str
    work: Path  # an empty directory of the caller's
    uid: int  # nobody else's while it runs
    memory_mb: int
    timeout_s: float


def engine_here() -> str:
    """The engine that this node's hosts have, by the lock and the processor."""
    found = _LOCKED.search((WASM.folder / "wasmtime.lock").read_text())
    assert found is not None, "wasmtime.lock names no version"
    return naming.engine_name(found[1])


class Signer:
    """Signs what was compiled here, and tells it from everything else. Thread-safe."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / KEY_FILE
        self._key = b""
        self._checked: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._guard = Lock()

    def sign(self, facts: Facts) -> Facts:
        """With its signature."""
        mac = facts.mac_by(self._load())
        return Facts(facts.engine, facts.archive, facts.source, facts.compiled, mac)

    def fits(self, folder: Path, archive: str) -> bool:
        """Whether this is code for this node's engine that we made of that archive. Files that were
        checked once are not read again while they are the same: nobody but root writes them."""
        try:
            known = (archive, *_identity(folder / naming.FACTS), *_identity(folder / naming.MODULE))
            with self._guard:
                if known in self._checked:
                    self._checked.move_to_end(known)
                    return True
            is_ours = self._check(folder, archive)
        except (OSError, ValueError, TypeError, RecursionError):
            return False
        if is_ours:
            with self._guard:
                self._checked[known] = None
                while len(self._checked) > WASM_CHECKED_MAX:
                    self._checked.popitem(last=False)
        return is_ours

    def _check(self, folder: Path, archive: str) -> bool:
        with (folder / naming.FACTS).open("rb") as file:
            facts = Facts(**json.loads(file.read(_FACTS_BYTES_MAX)))
        if not hmac.compare_digest(facts.mac, facts.mac_by(self._load())):
            return False
        if (facts.engine, facts.archive) != (engine_here(), archive):
            return False
        with (folder / naming.MODULE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == facts.compiled

    def _load(self) -> bytes:
        """This installation's key, made at first need. Several processes may want it at once."""
        if self._key:
            return self._key
        try:
            key = self._path.read_bytes()
        except FileNotFoundError:
            fresh = self._path.with_name(f".{KEY_FILE}.{secrets.token_hex(8)}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(secrets.token_bytes(_KEY_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, self._path)  # whole or not at all, and never over another's
            finally:
                fresh.unlink()
            key = self._path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise PlatformFault(f"{self._path} is not a key: remove it, and modules compile anew")
        self._key = key
        return key


def find_module(tree: Path) -> Path:
    """The function's one module. BuildFailed."""
    main = tree / naming.SOURCE
    found = [path for path in sorted(tree.rglob("*.wasm")) if _is_plain(path)]
    if _is_plain(main):
        found = [main]
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(tree)) for path in found[:5]) or "none"
        raise BuildFailed(
            f"the archive must hold {naming.SOURCE}, or one .wasm file; found: {names}"
        )
    size = found[0].stat().st_size
    if size > WASM_MODULE_BYTES_MAX:
        most = WASM_MODULE_BYTES_MAX >> 20
        raise BuildFailed(f"{found[0].name} has {size:,} bytes; a module may have {most} MiB")
    return found[0]


def compile_module(
    sandbox: BuildSandbox,
    signer: Signer,
    wanted: Compilation,
    *,
    write: Callable[[bytes], None],
    tick: Callable[[], None],
) -> Path:
    """A directory with the signed artifact. BuildFailed says in one line what is wrong with the
    module; PartAway, SandboxBroken."""
    staged, output = wanted.work / "src", wanted.work / "out"
    staged.mkdir()
    staged.chmod(0o755)
    data = wanted.source.read_bytes()
    (staged / naming.SOURCE).write_bytes(data)
    (staged / naming.SOURCE).chmod(0o644)
    said: list[bytes] = []

    def listen(chunk: bytes) -> None:
        said.append(chunk)
        del said[:-8]  # the last line is what counts
        write(chunk)

    status = sandbox.run(_installation(wanted, staged, output), write=listen, tick=tick)
    if status == _REFUSED:
        raise BuildFailed(f"{wanted.source.name}: {_last_line(said)}")
    if status != 0:
        raise BuildFailed(f"compiling the module failed (exit status {status}): {_last_line(said)}")
    artifact = wanted.work / "artifact"
    artifact.mkdir(mode=0o755)
    compiled = _take(output / "artifact", naming.MODULE, artifact / naming.MODULE)
    engine = _engine_of(output / "artifact", wanted.work)
    facts = Facts(engine, wanted.archive, hashlib.sha256(data).hexdigest(), compiled)
    (artifact / naming.FACTS).write_text(json.dumps(asdict(signer.sign(facts))))
    return artifact


def _installation(wanted: Compilation, staged: Path, output: Path) -> Installation:
    program = ("python3", "-I", "-B", "/opt/hearth/compile.py")
    return Installation(
        image=WASM.image,
        command=(*program, f"{SOURCE}/{naming.SOURCE}", f"{OUTPUT}/artifact", wanted.handler),
        source=staged,
        output=output,
        uid=wanted.uid,
        memory_mb=wanted.memory_mb,
        timeout_s=wanted.timeout_s,
        environment={"LANG": "C.UTF-8"},
        has_network=False,
        says="compiling the module",
    )


def _engine_of(folder: Path, work: Path) -> str:
    """Which engine the container had. SandboxBroken when it is not the one that hosts have."""
    _take(folder, naming.FACTS, work / "facts")
    try:
        engine = json.loads((work / "facts").read_bytes())["engine"]
    except (ValueError, KeyError, TypeError, RecursionError):
        engine = "none"
    if engine != engine_here():
        raise SandboxBroken(
            f"{WASM.image} compiles for {str(engine)[:100]!r} and this release runs "
            f"{engine_here()!r}; `hearth images build wasm` makes it anew"
        )
    return engine_here()


def _take(folder: Path, name: str, to: Path) -> str:
    """Copy a file that a container left, whose every name may be a trap; its sha256."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    digest = hashlib.sha256()
    try:
        directory = os.open(folder, flags | os.O_DIRECTORY)
        try:
            descriptor = os.open(name, flags, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise BuildFailed(f"the compiler left no {name}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as source, to.open("xb") as target:
        facts = os.fstat(source.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > WASM_ARTIFACT_BYTES_MAX:
            raise BuildFailed(f"the compiled module has {facts.st_size:,} bytes, or is no file")
        while data := source.read(_COPY_BYTES):
            digest.update(data)
            target.write(data)
    return digest.hexdigest()


def _last_line(said: list[bytes]) -> str:
    lines = b"".join(said).decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:500] if lines else "it said nothing"


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, ...]:
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise ValueError(f"{path} is not ours alone to write")
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
