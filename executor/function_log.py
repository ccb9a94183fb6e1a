"""What a sandbox's lines are when they reach the log: whose, of which version, and when."""

from __future__ import annotations

import logging
import time

from core.model import Version
from executor.call import LogLine, LogSink
from executor.journal import Stream

log = logging.getLogger("hearth.executor")


class FunctionLog:
    """Writes nothing until it is opened: a stem has no function to log for."""

    def __init__(self) -> None:
        self._version: Version | None = None
        self._sink: LogSink | None = None

    def open(self, version: Version, sink: LogSink) -> None:
        """From now on lines are the version's."""
        self._version, self._sink = version, sink

    def write(self, invocation_id: str | None, stream: Stream, lines: list[str]) -> None:
        """Never raises: a sink at fault costs its lines, not the sandbox that wrote them."""
        version, sink = self._version, self._sink
        if version is None or sink is None:
            return
        at = time.time()
        space, name, number = version.namespace, version.name, version.number
        found = [LogLine(at, space, name, number, invocation_id, stream, line) for line in lines]
        try:
            sink.write(found)
        except Exception:  # whatever it was, the function goes on
            log.exception("log lines of %s are lost", version.label)
