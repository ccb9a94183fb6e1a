"""The tree that archives make: what lies where, decided in memory before anything is written.

Every file is written before any symbolic link is made, and links are made only if all of them
stay inside: no write can pass through a link, whatever the archive's order.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import ArchiveInvalid
from core.limits import ARCHIVE_DEPTH_MAX, STORE_CHUNK_BYTES
from storage.entries import refuse, show
from storage.scratch import NO_LINKS

# What lies at a path: None is a directory, a number a file of so many bytes, text a symbolic link.
Node = int | str | None

# One moment for everything unpacked: 2000-01-01 UTC. Not 1970, which zip cannot say.
MTIME_S = 946_684_800
_MTIMES_NS = (MTIME_S * 10**9, MTIME_S * 10**9)
_HOPS_MAX = 40  # the kernel's own bound on links in one path
_STEPS_PER_LINK = 64  # following all links may not take more than this on average


@dataclass(frozen=True, slots=True)
class TreeFacts:
    """How much a tree holds. Two trees that differ here differ."""

    directories: int = 0  # without the root
    files: int = 0
    links: int = 0
    bytes: int = 0


@dataclass(eq=False, slots=True)
class Shape:
    """What lies where. Pure: says what must be made or removed, touches nothing itself."""

    nodes: dict[str, Node] = field(default_factory=lambda: {"": None})
    _placed: set[str] = field(default_factory=set)  # by the layer at hand, directories excepted

    def start_layer(self) -> None:
        """From here on, names of earlier layers may be placed once more."""
        self._placed.clear()

    def enter(self, directory: str, entry: str) -> list[str]:
        """Directories to make, outermost first, so that `entry` finds `directory` to be one.
        ArchiveInvalid when a file or a symbolic link has that name, or one above it."""
        missing: list[str] = []
        current = directory
        while current not in self.nodes:
            missing.append(current)
            current = current.rpartition("/")[0]
        node = self.nodes[current]
        if isinstance(node, str):
            refuse(entry, f"passes through the symbolic link {show(current)}")
        if node is not None:
            refuse(entry, f"needs a directory where the file {show(current)} is")
        for name in missing:
            self.nodes[name] = None
        return missing[::-1]

    def claim(self, path: str) -> bool:
        """Take `path` for a file or link. True when the file of an earlier layer is in the way.
        ArchiveInvalid when this layer has it already, or it is a directory."""
        if path in self._placed:
            refuse(path, "the same name twice")
        node = self.nodes.get(path, 0)
        if node is None:
            refuse(path, "a file where a directory of the same name is")
        self._placed.add(path)
        return path in self.nodes and isinstance(node, int)

    def hard_target(self, path: str, target: str) -> int:
        """The size of the file that a hard link names. It must stand in the same archive."""
        node = self.nodes.get(target)
        if target not in self._placed or target == path:
            refuse(path, f"a hard link to {show(target)}, which no earlier entry is")
        if not isinstance(node, int):
            refuse(path, f"a hard link to {show(target)}, which is a symbolic link")
        return node

    def links(self) -> list[tuple[str, str]]:
        """Every symbolic link and its target."""
        return [(path, node) for path, node in self.nodes.items() if isinstance(node, str)]

    def check_links(self) -> None:
        """ArchiveInvalid unless every symbolic link leads, step by step, to inside the tree.

        A link to nothing is fine: another layer may put something there, and is then checked."""
        links = self.links()
        steps_left = _STEPS_PER_LINK * len(links) + 10_000
        for path, _ in links:
            for _ in self._follow(path):
                steps_left -= 1
                if steps_left < 0:
                    raise ArchiveInvalid("the archive's symbolic links are too entangled")

    def _follow(self, link: str) -> Iterator[None]:
        """Walk as the kernel would, one step at a time."""
        here = link.split("/")[:-1]
        ahead = [link.split("/")[-1]]
        hops = 0
        while ahead:
            yield
            part = ahead.pop()
            if part == "..":
                if not here:
                    refuse(link, f"links to {show(str(self.nodes[link]))}, outside the archive")
                here.pop()
            elif part not in ("", "."):
                here.append(part)
                if len(here) > 2 * ARCHIVE_DEPTH_MAX:
                    refuse(link, "links to a path that is too deep")
                node = self.nodes.get("/".join(here))
                if isinstance(node, str):
                    hops += 1
                    if hops > _HOPS_MAX:
                        refuse(link, "symbolic links in a circle, or in too long a chain")
                    here.pop()
                    ahead.extend(reversed(node.split("/")))

    def facts(self) -> TreeFacts:
        """How much it holds."""
        nodes = self.nodes.values()
        sizes = [node for node in nodes if isinstance(node, int)]
        links = sum(isinstance(node, str) for node in nodes)
        return TreeFacts(len(nodes) - len(sizes) - links - 1, len(sizes), links, sum(sizes))


class DiskTree:
    """Makes files, directories and links below one directory that nobody else writes to.

    Paths are relative to its descriptor. Files are 0644 or 0755, directories 0755, all of them the
    platform's own and of one moment in time.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._root)

    def make_directory(self, path: str) -> None:
        """Its mode and times are set by `finish_directories`."""
        os.mkdir(path, 0o755, dir_fd=self._root)

    def write_file(self, path: str, content: Iterator[bytes], mode: int) -> int:
        """Write a new file; how many bytes it got."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(path, flags, mode, dir_fd=self._root)
        try:
            size = 0
            for data in content:
                size += len(data)
                _write(fd, data)
            os.fchmod(fd, mode)  # whatever the umask is
            os.utime(fd, ns=_MTIMES_NS)
        finally:
            os.close(fd)
        return size

    def link_file(self, target: str, path: str) -> None:
        """A second name for a file of this tree."""
        os.link(target, path, src_dir_fd=self._root, dst_dir_fd=self._root, follow_symlinks=False)

    def adopt_file(self, source: int, path: str) -> None:
        """A second name for the same file of another tree, whose root `source` is. Where the file
        system gives it no more names, a copy."""
        try:
            os.link(path, path, src_dir_fd=source, dst_dir_fd=self._root, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=source)
            with os.fdopen(fd, "rb", buffering=0) as file:
                mode = stat.S_IMODE(os.fstat(fd).st_mode)
                self.write_file(path, iter(lambda: file.read(STORE_CHUNK_BYTES), b""), mode)

    def remove_file(self, path: str) -> None:
        """Make way for a later layer's file."""
        os.unlink(path, dir_fd=self._root)

    def make_link(self, path: str, target: str) -> None:
        """A symbolic link. Only after every file is written."""
        os.symlink(target, path, dir_fd=self._root)
        os.utime(path, ns=_MTIMES_NS, dir_fd=self._root, follow_symlinks=False)

    def finish_directories(self, paths: Iterator[str]) -> None:
        """Modes and times, now that nothing in them changes any more. "" is the root."""
        for path in paths:
            os.chmod(path or ".", 0o755, dir_fd=self._root)  # noqa: S103 - code is no secret here
            os.utime(path or ".", ns=_MTIMES_NS, dir_fd=self._root)


def link_tree(layer: Path, shape: Shape, disk: DiskTree) -> None:
    """Lay a tree that was unpacked before over what is there, its files as hard links.

    Names clash, and links are looked at, as if its archive were unpacked once more."""
    root = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        waiting = [""]
        while waiting:
            above = waiting.pop()
            with os.scandir(layer / above) as found:
                for entry in found:
                    path = f"{above}/{entry.name}" if above else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                        for directory in shape.enter(path, path):
                            disk.make_directory(directory)
                        continue
                    if shape.claim(path):
                        disk.remove_file(path)
                    if entry.is_symlink():
                        shape.nodes[path] = os.readlink(path, dir_fd=root)
                    else:
                        disk.adopt_file(root, path)
                        shape.nodes[path] = entry.stat(follow_symlinks=False).st_size
    finally:
        os.close(root)


def measure(root: Path) -> TreeFacts:
    """What a tree on disk holds, to compare with what it should."""
    directories = files = links = size = 0
    pending = [str(root)]
    while pending:
        with os.scandir(pending.pop()) as found:
            for entry in found:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    directories += 1
                    pending.append(entry.path)
                elif stat.S_ISLNK(status.st_mode):
                    links += 1
                else:
                    files += 1
                    size += status.st_size
    return TreeFacts(directories, files, links, size)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
