"""Which images this node's runtimes are, asked of Podman only when something about images changed:
two questions took a third of a deploy that installs nothing."""

from __future__ import annotations

import threading
from pathlib import Path

from executor.build_sandbox import BuildSandbox

_Stamp = tuple[int, int, int]


class Images:
    """What names of images mean now. Thread-safe."""

    def __init__(self, sandbox: BuildSandbox) -> None:
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._list: Path | None = None
        self._stamp: _Stamp | None = None
        self._known: dict[str, str] = {}

    def ids(self, *names: str) -> list[str]:
        """Their ids. SandboxBroken when this node lacks one; PartAway."""
        stamp = self._look()
        with self._lock:
            if stamp is None or stamp != self._stamp:
                self._known, self._stamp = {}, stamp
            known = self._known
        for name in names:
            if name not in known:
                # Asked after the look: if it changed in between, the next look sees that.
                known[name] = self._sandbox.image_id(name)
        return [known[name] for name in names]

    def _look(self) -> _Stamp | None:
        """Podman replaces its list of images at every change. None: it has none where it should."""
        if self._list is None:
            self._list = self._sandbox.image_list()
        try:
            facts = self._list.stat()
        except OSError:
            return None
        return facts.st_ino, facts.st_mtime_ns, facts.st_size
