"""The dependencies of a version as a layer: from the cache, or installed in a container."""

from __future__ import annotations

import os
import queue
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from core.errors import ArchiveInvalid, ArchiveTooLarge, BuildFailed
from core.limits import WASM_COMPILE_S
from core.model import Version
from core.settings import Settings
from executor import netns
from executor.build_sandbox import CERTIFICATES, BuildSandbox, Installation
from executor.firewall import Endpoint, is_public
from executor.wasm_artifacts import Compilation, Signer, compile_module, find_module
from runtimes.registry import Runtime
from storage.archive import pack_tree
from storage.store import ObjectStore, object_key
from storage.tree import measure
from worker import dart_compilation, dependencies, installed, node_dependencies, python_dependencies
from worker.build_log import BuildLog
from worker.dependencies import Found, Plan
from worker.images import Images
from worker.indexes import Index, Indexes, certificates, host_port
from worker.installed import Installed
from worker.layer_cache import LayerCache, Record
from worker.private_indexes import places
from worker.pulse import Pulse
from worker.reasons import why

_TURN_S = 0.5
_BEGIN = """set -eu
umask 022
export HOME=/out/tmp/home TMPDIR=/out/tmp
mkdir -p "$HOME" /out/layer
if [ -f /src/settings/environment ]; then . /src/settings/environment; fi
cp -R /src/files /out/tmp/src
cd /out/tmp/src
"""
# The layer's files get one fixed time, so compiled code must not be compared with its source's.
_PIP = """mkdir -p /out/layer/.hearth
python3 -m pip install --no-input --disable-pip-version-check --no-cache-dir --progress-bar off \
    --no-compile --no-warn-script-location --target /out/layer/.hearth/site-packages \
    --requirement requirements.txt
python3 -m compileall -q -s /out/layer -p /var/task --invalidation-mode unchecked-hash \
    /out/layer/.hearth/site-packages || true
"""
_NPM = """npm {verb} --omit=dev --no-audit --no-fund --no-progress --cache /out/tmp/npm
if [ -d node_modules ]; then mv node_modules /out/layer/; fi
"""
_SCRIPTS = {
    "pip": ("pip install --requirement requirements.txt", _PIP),
    "npm-ci": ("npm ci --omit=dev", _NPM.format(verb="ci")),
    "npm-install": ("npm install --omit=dev", _NPM.format(verb="install")),
    "dart": (dart_compilation.SAYS, dart_compilation.SCRIPT),
}


@dataclass(frozen=True, slots=True)
class Job:
    """The build that wants its dependencies."""

    version: Version
    runtime: Runtime
    tree: Path  # the unpacked function
    work: Path  # for our files; whoever made it removes it
    log: BuildLog
    pulse: Pulse


class Installer:
    """Makes layers. Thread-safe; at most `settings.builds_max` installations at once."""

    def __init__(self, settings: Settings, sandbox: BuildSandbox, store: ObjectStore) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self._store = store
        self._images = Images(sandbox)
        self._indexes = Indexes()
        self._cache = LayerCache(settings.data_dir / "build-cache")
        self._signer = Signer(settings.data_dir)
        # Above the sandboxes' own range: never one of theirs, and each a single build's at a time.
        first = settings.uid_base + settings.uid_count
        self._uids: queue.SimpleQueue[int] = queue.SimpleQueue()
        for uid in range(first, first + settings.builds_max):
            self._uids.put(uid)

    def layer(self, job: Job) -> str | None:
        """The digest of the layer that holds the dependencies; None when there are none.

        For a hosted runtime it holds the compiled module instead. It is in the store under the
        version's function. BuildFailed, PartAway, DiskFull."""
        if job.runtime.is_hosted:
            return self._compiled(job)
        found = find(job.tree, job.runtime.short, job.version.config.handler)
        for note in found.notes:
            job.log.line(note)
        code_bytes = measure(job.tree).bytes
        if found.plan is None:
            installed.check_size(code_bytes, Installed())
            return None
        if found.plan.kind == "dart":
            dart_compilation.require_sdk(self._settings)
        index = self._index(job)
        job.log.hide(index.secrets)
        origin = f", from {index.shown}" if index.shown else ""
        job.log.line(f"dependencies: {found.plan.says}{origin}")
        (job.work / "src").mkdir()
        (job.work / "src").chmod(0o755)  # whatever the umask is: the container's user looks in
        staged = dependencies.stage(job.tree, found.plan, job.work / "src" / "files")
        images = self._images.ids(job.runtime.image, job.runtime.builder_image)
        key = dependencies.key(job.version.namespace, images, found.plan, staged, index.identity)
        record = self._reuse(job, key)
        if record is None:
            digest, left = self._install(job, found.plan, index, code_bytes)
            mine = job.version.function_id
            record = Record(mine, digest, found.plan.pinned, time.time(), left)
            self._cache.keep(job.version.namespace, key, record)
        installed.check_size(code_bytes, record.installed)
        return record.digest

    def sweep(self) -> None:
        """Forget what has not been used for long."""
        self._cache.sweep()

    def _index(self, job: Job) -> Index:
        found = places(self._settings, job.version.namespace, job.version.name)
        if job.runtime.short == "python":
            return self._indexes.python(found)
        if job.runtime.short == "dart":
            return Index({}, frozenset())  # pub's own default is public
        return self._indexes.node(found, lambda: self._npm_default(job))

    # --- from the cache

    def _reuse(self, job: Job, key: str) -> Record | None:
        namespace = job.version.namespace
        record = self._cache.find(namespace, key)
        if record is None:
            return None
        if record.digest is not None and not self._bring(job, record.function_id, record.digest):
            self._cache.forget(namespace, key)
            return None
        age_s = max(0, int(time.time() - record.at))
        what = f" ({record.installed})" if record.installed.count else ""
        job.log.line(f"the same as installed {_age(age_s)} ago: reused{what}")
        return record

    def _bring(self, job: Job, owner: str, digest: str) -> bool:
        """Have the layer under the version's own function. False when it is gone."""
        mine, theirs = object_key(job.version.function_id, digest), object_key(owner, digest)
        if self._store.exists(mine):
            return True
        if mine == theirs or not self._store.exists(theirs):
            return False
        self._store.copy(theirs, mine)
        return True

    # --- in a container

    def _install(
        self, job: Job, plan: Plan, index: Index, code_bytes: int
    ) -> tuple[str | None, Installed]:
        said, script = _SCRIPTS[plan.kind]
        output = job.work / "out"
        with self._uid(job) as uid, _settings(job.work / "src" / "settings", index, uid):
            began = time.monotonic()
            job.log.line(f"$ {said}")
            status = self._run(job, self._wanted(job, script, index, uid, output))
        if status != 0:
            line, hint = why(said, status, job.log.text())
            if hint:
                job.log.line(f"hint: {hint}")
            raise BuildFailed(line)
        return self._pack(job, output, began, code_bytes)

    def _wanted(self, job: Job, script: str, index: Index, uid: int, output: Path) -> Installation:
        allowed, names = self._reachable(index)
        ca = certificates()
        return Installation(
            image=job.runtime.builder_image,
            command=("sh", "-c", _BEGIN + script),
            source=job.work / "src",
            output=output,
            uid=uid,
            memory_mb=self._settings.build_memory_mb,
            timeout_s=self._settings.build_timeout_s,
            environment={**_environment(ca), **index.environment},
            allowed=allowed,
            names=names,
            certificates=ca,
        )

    def _run(self, job: Job, wanted: Installation) -> int:
        try:
            return self._sandbox.run(wanted, write=job.log.write, tick=job.pulse.check)
        finally:
            job.log.end_output()

    def _pack(
        self, job: Job, output: Path, began: float, code_bytes: int
    ) -> tuple[str | None, Installed]:
        """What the container left, into the store. The container is gone: nothing changes it."""
        layer = output / "layer"
        try:
            is_directory = stat.S_ISDIR(layer.lstat().st_mode)
        except FileNotFoundError:
            is_directory = False
        if not is_directory:
            raise BuildFailed("the installation removed the directory that it was to fill")
        took = time.monotonic() - began
        left = installed.look(layer)
        if not left.bytes:
            job.log.line(f"nothing was installed ({took:.1f} s)")
            return None, left
        what = f"installed {left.count} packages" if left.count else "done"
        job.log.line(f"{what} in {took:.1f} s" + (f": {left}" if left.count else ""))
        installed.check_size(code_bytes, left)
        try:
            digest = pack_tree(layer, job.work / "layer.tar")
        except (ArchiveInvalid, ArchiveTooLarge) as error:
            raise BuildFailed(f"the installed dependencies cannot be kept: {error}") from error
        self._store.put(object_key(job.version.function_id, digest), job.work / "layer.tar")
        return digest, left

    def _compiled(self, job: Job) -> str:
        """The module as code for this node's hosts. Another kind of node compiles it itself."""
        source = find_module(job.tree)
        job.log.line(f"compiling {source.name} ({source.stat().st_size:,} bytes)")
        began = time.monotonic()
        work = job.work / "compiling"
        work.mkdir()
        with self._uid(job) as uid:
            wanted = Compilation(
                source=source,
                archive=job.version.archive_digest,
                handler=job.version.config.handler,
                work=work,
                uid=uid,
                memory_mb=self._settings.build_memory_mb,
                timeout_s=min(WASM_COMPILE_S, self._settings.build_timeout_s),
            )
            artifact = compile_module(
                self._sandbox, self._signer, wanted, write=lambda _: None, tick=job.pulse.check
            )
        digest = pack_tree(artifact, job.work / "layer.tar")
        self._store.put(object_key(job.version.function_id, digest), job.work / "layer.tar")
        job.log.line(f"compiled in {time.monotonic() - began:.1f} s")
        return digest

    @contextmanager
    def _uid(self, job: Job) -> Iterator[int]:
        """A free one; waits while as many installations run as may. Builds that install nothing
        do not wait behind them."""
        try:
            uid = self._uids.get_nowait()
        except queue.Empty:
            job.log.line("waiting for another installation to end")
            uid = self._next_uid(job.pulse)
        try:
            yield uid
        finally:
            self._uids.put(uid)

    def _next_uid(self, pulse: Pulse) -> int:
        while True:
            pulse.check()
            with suppress(queue.Empty):
                return self._uids.get(timeout=_TURN_S)

    def _reachable(self, index: Index) -> tuple[frozenset[Endpoint], dict[str, str]]:
        """Where the index and the operator's further hosts are, and names for those addresses that
        would be refused otherwise: what was allowed is what the container then finds."""
        allowed: set[Endpoint] = set()
        names: dict[str, str] = {}
        for host, port in index.hosts | set(map(host_port, self._settings.build_hosts)):
            found = netns.resolve(host, port)
            allowed |= found
            private = sorted(str(e.address) for e in found if not is_public(e.address))
            if private and private[0] != host:
                names[host] = private[0]
        return frozenset(allowed), names

    def _npm_default(self, job: Job) -> str:
        """The registry that the builder image's npm uses when it is told nothing."""
        (job.work / "nothing").mkdir(exist_ok=True)  # empty: nobody needs to read it
        said: list[bytes] = []
        with self._uid(job) as uid:
            wanted = Installation(
                image=job.runtime.builder_image,
                command=("npm", "config", "get", "registry"),
                source=job.work / "nothing",
                output=job.work / "said",
                uid=uid,
                memory_mb=self._settings.build_memory_mb,
                timeout_s=self._settings.build_timeout_s,
                environment={"HOME": "/tmp"},
                has_network=False,
            )
            self._sandbox.run(wanted, write=said.append, tick=job.pulse.check)
        return b"".join(said).decode(errors="replace").strip()


def find(tree: Path, language: str, handler: str) -> Found:
    """What an unpacked function asks for. BuildFailed when its lists cannot be used."""
    match language:
        case "python":
            return python_dependencies.find(tree)
        case "node":
            return node_dependencies.find(tree)
        case "dart":
            return dart_compilation.find(tree, handler)
        case _:
            return Found(None)


def _environment(ca: Path | None) -> dict[str, str]:
    """Variables of the container; an index's come on top."""
    variables = {
        "LANG": "C.UTF-8",
        "CI": "true",
        "PYTHONUNBUFFERED": "1",  # what pip prints is seen as it happens
        "NO_COLOR": "1",
        "SOURCE_DATE_EPOCH": "315532800",  # 1980: the first that a wheel can carry
        "npm_config_update_notifier": "false",
    }
    if ca is not None:
        told = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
        variables |= dict.fromkeys((*told, "CURL_CA_BUNDLE"), CERTIFICATES)
    return variables


@contextmanager
def _settings(folder: Path, index: Index, uid: int) -> Iterator[None]:
    """The files that pip, npm and the shell take from an index; nobody but `uid` may read them,
    and they are gone when the installation is."""
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    try:
        for name, text in index.files.items():
            fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with os.fdopen(fd, "w") as file:
                file.write(text)
            os.chown(folder / name, uid, uid)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _age(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
