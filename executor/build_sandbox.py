"""The container in which dependencies are installed: other people's code, with a network.

It sees the files it is given, an output directory and the public internet, through walls it cannot
move (executor/firewall.py); it has no capability, an own uid, and limits on everything. What it
leaves in the output directory is as hostile as the code that wrote it.
"""

from __future__ import annotations

import os
import resource
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from core.errors import BuildFailed, PartAway, SandboxBroken
from core.limits import (
    BUILD_CPU_SHARES,
    BUILD_CPUS_MAX,
    BUILD_NOFILE,
    BUILD_PIDS_MAX,
    BUILD_TMP_MB,
    DEPENDENCIES_BYTES_MAX,
    DEPENDENCIES_ENTRIES_MAX,
)
from executor import netns
from executor.attachment import attach
from executor.cgroup import ROOT, Limits, SandboxCgroup, is_v2, remove_tree, trees
from executor.firewall import Endpoint, rules

if TYPE_CHECKING:
    from podman import PodmanClient
    from podman.domain.containers import Container

NETWORK = "hearth-build"
NODE_LABEL, BUILDER_LABEL = "hearth.node", "hearth.builder"
SOURCE, OUTPUT, CERTIFICATES = "/src", "/out", "/etc/hearth-ca.pem"

_CGROUPS = "/hearth-builds"
_PODMAN_S = 60.0  # one call of Podman's service; a loaded machine needs seconds
_GROUP_S = 5.0  # a group that is still busy then is left to the next start of a builder
_TICK_S = 0.25
_MEASURE_S = 2.0  # at most this often, and a tenth of the time, the output is measured


@dataclass(frozen=True, slots=True)
class Installation:
    """One run. `source` is seen read-only at /src, `output` read-write at /out."""

    image: str
    command: Sequence[str]
    source: Path
    output: Path
    uid: int  # nobody else's while it runs: limits on processes are counted by it
    memory_mb: int
    timeout_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[Endpoint] = frozenset()  # reachable although not public
    names: Mapping[str, str] = field(default_factory=dict)  # host name -> address, for /etc/hosts
    certificates: Path | None = None  # the host's CA bundle
    has_network: bool = True
    says: str = "installing the dependencies"  # what it does, for the messages of its limits


class BuildSandbox:
    """Runs installations on this node's Podman. Thread-safe: each run has a client of its own."""

    def __init__(self, service: Path, *, node: str, builder: str) -> None:
        self._service = service
        self._labels = {NODE_LABEL: node, BUILDER_LABEL: builder}

    def image_id(self, image: str) -> str:
        """What the name means now. SandboxBroken when this node has no such image."""
        with self._podman() as podman:
            from podman.errors import ImageNotFound

            try:
                found = podman.images.get(image)
            except ImageNotFound:
                raise SandboxBroken(
                    f"the image {image} is missing on this node; `hearth images build` makes it"
                ) from None
            return str(found.id)

    def image_list(self) -> Path:
        """The file that Podman writes anew whenever an image, or what a name means, changes."""
        with self._podman() as podman:
            store = podman.info()["store"]  # type: ignore[no-untyped-call]
        return Path(store["graphRoot"]) / f"{store['graphDriverName']}-images" / "images.json"

    def run(
        self,
        wanted: Installation,
        *,
        write: Callable[[bytes], None],
        tick: Callable[[], None],
    ) -> int:
        """Run to the end; the exit status. Output goes to `write` as it comes.

        `tick` is called several times a second; what it raises ends the run. BuildFailed when the
        run breaks a limit; whatever happens, nothing of the container is left."""
        wanted.output.mkdir(mode=0o700, exist_ok=True)
        os.chown(wanted.output, wanted.uid, wanted.uid)
        watch = _Watch(wanted, tick)
        with (
            self._podman() as podman,
            self._cgroup(wanted) as cgroup,
            self._container(podman, wanted, cgroup.path) as container,
        ):
            container.init()
            assert container.id is not None
            if wanted.has_network:
                _wall(container, wanted)
            with attach(self._service, container.id, _PODMAN_S) as output:
                container.start()
                while (chunk := output.read(_TICK_S)) is not None:
                    if chunk:
                        write(chunk)
                    watch()
            status = _wait(container, watch)
            if status and cgroup.ran_out_of_memory():
                raise BuildFailed(
                    f"{wanted.says} ran out of memory ({wanted.memory_mb} MB, "
                    "HEARTH_BUILD_MEMORY_MB)"
                )
        watch.measure()
        return status

    def remove_leftovers(self, is_alive: Callable[[str], bool]) -> int:
        """Remove containers of this node's builders that are no more; how many there were."""
        with self._podman() as podman:
            label = f"{NODE_LABEL}={self._labels[NODE_LABEL]}"
            # The label as text: podman-py makes text of a list, and then finds nothing.
            found = podman.containers.list(all=True, filters={"label": label})
            left = [c for c in found if not is_alive((c.labels or {}).get(BUILDER_LABEL, ""))]
            for container in left:
                _remove(container)
        hierarchies = "" if is_v2() else "*/"
        for group in ROOT.glob(f"{hierarchies}{_CGROUPS.lstrip('/')}/*"):
            if group.is_dir() and not is_alive(unquote(group.name.rpartition(".")[0])):
                remove_tree(group)
        return len(left)

    @contextmanager
    def _podman(self) -> Iterator[PodmanClient]:
        # Late: a builder that never installs anything does not carry Podman's client.
        from podman import PodmanClient
        from podman.errors import APIError
        from requests.exceptions import RequestException

        self._knock()
        with PodmanClient(base_url=f"unix://{self._service}", timeout=_PODMAN_S) as client:
            try:
                yield client
            except APIError as error:  # before the other, which is above it
                if error.response is not None:
                    raise SandboxBroken(f"podman: {error.explanation or error}") from error
                raise PartAway("podman", f"its service does not answer: {error}") from error
            except RequestException as error:
                raise PartAway("podman", f"its service does not answer: {error}") from error

    def _knock(self) -> None:
        """PartAway unless the service listens; podman-py leaves a socket open when it does not."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(_PODMAN_S)
            try:
                knock.connect(str(self._service))
            except OSError as error:
                raise PartAway("podman", f"its service does not answer: {error}") from error

    @contextmanager
    def _cgroup(self, wanted: Installation) -> Iterator[SandboxCgroup]:
        """The group above the container's, which has the limits: it tells whether memory ran out
        when the container is gone. Podman's word for that is not reliable (4.3 never says it)."""
        name = f"{quote(self._labels[BUILDER_LABEL], safe='')}.{secrets.token_hex(4)}"
        group = SandboxCgroup(f"{_CGROUPS}/{name}")
        try:
            group.make()
            group.limit(Limits(wanted.memory_mb << 20, BUILD_CPUS_MAX))
            yield group
        finally:
            group.close()
            _remove_group(group.path)

    @contextmanager
    def _container(
        self, podman: PodmanClient, wanted: Installation, cgroup: str
    ) -> Iterator[Container]:
        if wanted.has_network:
            _ensure_network(podman)
        told = arguments(wanted, self._labels, netns.resolvers())
        container = podman.containers.create(**told, cgroup_parent=cgroup)
        try:
            yield container
        finally:
            _remove(container)


def arguments(
    wanted: Installation, labels: Mapping[str, str], resolvers: Sequence[Any]
) -> dict[str, Any]:
    """What podman-py's create call is given. Decides only."""
    mounts = [
        _bind(wanted.source, SOURCE, writable=False),
        _bind(wanted.output, OUTPUT, writable=True),
        {"type": "tmpfs", "target": "/tmp", "size": f"{BUILD_TMP_MB}m", "mode": "1777"},
    ]
    if wanted.certificates is not None:
        mounts.append(_bind(wanted.certificates, CERTIFICATES, writable=False))
    network: dict[str, Any] = {"network_mode": "none"}
    if wanted.has_network:
        network = {
            "network_mode": "bridge",
            "networks": {NETWORK: {}},
            "dns": [str(address) for address in resolvers],
            "extra_hosts": dict(wanted.names),
        }
    return {
        "image": wanted.image,
        "command": list(wanted.command),
        "environment": dict(wanted.environment),
        "labels": dict(labels),
        "mounts": mounts,
        "user": f"{wanted.uid}:{wanted.uid}",
        "cap_drop": ["all"],
        "no_new_privileges": True,
        "read_only": True,
        "read_write_tmpfs": False,
        "pids_limit": BUILD_PIDS_MAX,
        "cpu_shares": BUILD_CPU_SHARES,
        "ulimits": _ulimits(),
        "oom_score_adj": 500,  # when the machine runs out, builds go before functions
        "log_config": {"Type": "none"},
        "stop_timeout": 0,
        "working_dir": OUTPUT,
        **network,
    }


def measure(root: Path) -> tuple[int, int]:
    """(bytes, entries) below a directory of hostile content; links are not followed.

    Sparse files count in full, since that is what packing them costs."""
    size = entries = 0
    waiting = [root]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as found:
            for entry in found:
                entries += 1
                with suppress(OSError):
                    facts = entry.stat(follow_symlinks=False)
                    size += max(facts.st_size, facts.st_blocks * 512)
                    if stat.S_ISDIR(facts.st_mode):
                        waiting.append(Path(entry.path))
        if entries > DEPENDENCIES_ENTRIES_MAX:
            break
    return size, entries


class _Watch:
    """Looked at while a container runs: its time, its output's size, and the caller's own wish."""

    def __init__(self, wanted: Installation, tick: Callable[[], None]) -> None:
        self._wanted = wanted
        self._tick = tick
        self._deadline = time.monotonic() + wanted.timeout_s
        self._measure_at = time.monotonic() + _MEASURE_S

    def __call__(self) -> None:
        self._tick()
        now = time.monotonic()
        if now > self._deadline:
            raise BuildFailed(
                f"{self._wanted.says} took longer than {self._wanted.timeout_s:g} s "
                "(HEARTH_BUILD_TIMEOUT_S)"
            )
        if now > self._measure_at:
            self.measure()
            took = time.monotonic() - now
            self._measure_at = now + max(_MEASURE_S, 10 * took)

    def measure(self) -> None:
        """BuildFailed when the output is over its limits."""
        size, entries = measure(self._wanted.output)
        if size > DEPENDENCIES_BYTES_MAX or entries > DEPENDENCIES_ENTRIES_MAX:
            raise BuildFailed(
                f"the dependencies are more than {DEPENDENCIES_BYTES_MAX >> 20} MiB "
                f"or {DEPENDENCIES_ENTRIES_MAX} files"
            )


def _wait(container: Container, watch: _Watch) -> int:
    """Until the container has ended; its streams may have been closed long before."""
    while True:
        state = container.inspect()["State"]
        if state["Status"] in ("exited", "stopped", "dead", "removing"):
            break
        watch()
        time.sleep(_TICK_S)
    return int(state["ExitCode"])


def _wall(container: Container, wanted: Installation) -> None:
    """Before its start, and it cannot be undone from inside."""
    walls = rules(allowed=wanted.allowed, resolvers=netns.resolvers(), host=netns.host_addresses())
    netns.wall(container.inspect()["State"]["Pid"], walls)


def _ensure_network(podman: PodmanClient) -> None:
    from podman.errors import APIError

    if podman.networks.exists(NETWORK):
        return
    try:
        # Without Podman's own name server: it would answer at an address of the host.
        podman.networks.create(NETWORK, driver="bridge", dns_enabled=False)
    except APIError:
        if not podman.networks.exists(NETWORK):  # else another build was quicker
            raise


def _remove(container: Container) -> None:
    from podman.errors import APIError, NotFound

    with suppress(APIError):
        container.kill("KILL")
    with suppress(NotFound):
        container.remove(force=True, v=True)


def _remove_group(path: str) -> None:
    """Podman's monitor of the container sits in it, and ends a moment after the container."""
    deadline = time.monotonic() + _GROUP_S
    while not all(remove_tree(tree) for tree in trees(path)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _bind(source: Path, target: str, *, writable: bool) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": str(source),
        "target": target,
        "read_only": not writable,
        "propagation": "rprivate",
        "relabel": "nosuid",
    }


def _ulimits() -> list[dict[str, Any]]:
    """Never above the caller's own: raising them needs a right that hosts may withhold."""
    wanted = {
        "nofile": (resource.RLIMIT_NOFILE, BUILD_NOFILE),
        "nproc": (resource.RLIMIT_NPROC, BUILD_PIDS_MAX),
        "fsize": (resource.RLIMIT_FSIZE, DEPENDENCIES_BYTES_MAX),
        "core": (resource.RLIMIT_CORE, 0),
    }
    limits = []
    for name, (which, most) in wanted.items():
        hard = resource.getrlimit(which)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        limits.append({"Name": name, "Soft": value, "Hard": value})
    return limits
