"""TLS with certificates that are looked at again: a renewed file is served without a restart."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from core.settings import Settings, SettingsInvalid

LOOK_S = 5.0

log = logging.getLogger("hearth.tls")


class Certificate:
    """The context that new connections use, loaded again when a file has changed."""

    def __init__(self, cert: Path, key: Path) -> None:
        """SettingsInvalid when the files cannot be used."""
        self._cert, self._key = cert, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = self._look()
        try:
            self.context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise SettingsInvalid(f"HEARTH_TLS_CERT, HEARTH_TLS_KEY: {error}") from None

    @classmethod
    def of(cls, settings: Settings) -> Certificate | None:
        """What the settings name, if they do."""
        if settings.tls_cert == Path():
            return None
        return cls(settings.tls_cert, settings.tls_key)

    async def watch(self) -> None:
        """Look every LOOK_S, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.reload)

    def reload(self) -> None:
        """Load changed files. What cannot be used is logged, and the old pair goes on. Blocks."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            # Tried apart first: half of a renewal must not spoil the context in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key)
            self.context.load_cert_chain(self._cert, self._key)
        except (OSError, ssl.SSLError) as error:
            log.warning("the changed certificate cannot be used, the old one goes on: %s", error)
        else:
            log.info("the changed certificate is in use")

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        facts = []
        for path in (self._cert, self._key):
            try:
                stat = path.stat()
            except OSError:
                facts.append((0, 0, 0))
            else:
                facts.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(facts)
