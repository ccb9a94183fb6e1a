"""The catalog: what every process asks about functions, versions, aliases, keys and builds.

Synchronous and thread-safe; each call is one transaction. A caller on an event loop goes through
a thread. Any call may raise PartAway("database", …), which heals when the database is back, or
DiskFull; nothing was changed then.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from catalog import aliases, builds, functions, keys, snapshot, versions
from catalog.database import Database
from catalog.migrate import migrate
from catalog.snapshot import Snapshot
from core.model import (
    LATEST,
    Alias,
    Build,
    BuildStatus,
    Function,
    FunctionConfig,
    Key,
    Role,
    Version,
)


class Catalog:
    """One database. A write that changes what can be invoked, or who may, ends the same
    transaction with a new `generation()`."""

    def __init__(self, url: str) -> None:
        """Connects on first use. SettingsInvalid for a URL of neither SQLite nor PostgreSQL."""
        self.database = Database(url)
        self._seen: dict[str, Version] = {}  # of the last snapshot; replaced, never changed

    def migrate(self) -> None:
        """Bring the tables to this release's state. Several processes may do so at once."""
        migrate(self.database)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    def ping(self) -> None:
        """Whether the database answers: PartAway when not."""
        self.generation()

    def generation(self) -> int:
        """The number of the last change. Compare with `!=`: a restored backup counts back."""
        with self.database.read() as tx:
            return snapshot.generation(tx)

    def snapshot(self) -> Snapshot:
        """Everything a gateway needs to invoke and authenticate, as of one moment. Shares the
        versions that an earlier one holds, and reads the rest."""
        with self.database.read() as tx:
            taken = snapshot.take(tx, self._seen)
        self._seen = {version.id: version for version in taken.versions}
        return taken

    # --- functions

    def function(self, namespace: str, name: str) -> Function:
        """FunctionNotFound."""
        with self.database.read() as tx:
            return functions.get(tx, namespace, name)

    def functions(
        self, namespace: str | None, *, after: str | None = None, limit: int
    ) -> list[Function]:
        """A page by name; over all namespaces (None) by `namespace.name`, which `after` is then."""
        with self.database.read() as tx:
            return functions.page(tx, namespace, after=after, limit=limit)

    def ensure_function(self, namespace: str, name: str, *, must_be_new: bool) -> Function:
        """Found or made. FunctionExists when it had to be new; NameInvalid."""
        with self.database.write() as tx:
            return functions.ensure(tx, namespace, name, must_be_new=must_be_new)

    def delete_function(self, namespace: str, name: str) -> Function:
        """With its versions, aliases and builds. FunctionNotFound."""
        with self.database.write() as tx:
            return functions.remove(tx, namespace, name)

    def delete_unused_function(self, function_id: str) -> bool:
        """Delete it if no version was ever added: what a first deploy that failed cleans up."""
        with self.database.write() as tx:
            return functions.remove_unused(tx, function_id)

    # --- versions

    def add_version(
        self,
        function_id: str,
        config: FunctionConfig,
        *,
        archive_digest: str,
        archive_bytes: int,
        layers: tuple[str, ...] = (),
    ) -> Version:
        """The next version, building, with its build queued. Numbers are never given twice, not
        even after a deletion. FunctionNotFound."""
        with self.database.write() as tx:
            return versions.add(
                tx,
                function_id,
                config,
                archive_digest=archive_digest,
                archive_bytes=archive_bytes,
                layers=layers,
            )

    def version(self, function_id: str, number: int) -> Version:
        """VersionNotFound."""
        with self.database.read() as tx:
            return versions.get(tx, function_id, number)

    def version_by_id(self, version_id: str) -> Version:
        """VersionNotFound."""
        with self.database.read() as tx:
            return versions.by_id(tx, version_id)

    def versions(self, function_id: str, *, before: int | None = None, limit: int) -> list[Version]:
        """A page, newest first, from below the number `before` on."""
        with self.database.read() as tx:
            return versions.page(tx, function_id, before=before, limit=limit)

    def latest_version_number(self, function_id: str) -> int | None:
        """The highest number there is, whatever the version's status; not what `latest` names."""
        with self.database.read() as tx:
            return versions.latest_number(tx, function_id)

    def activate(self, version_id: str, layers: Sequence[str]) -> Version:
        """Building → active, once; `latest` follows if that is forward. On an active version no
        change. VersionNotFound; VersionNotActive when it has failed."""
        with self.database.write() as tx:
            return versions.activate(tx, version_id, tuple(layers))

    def fail(self, version_id: str, error: str) -> Version:
        """Building → failed, once. On a failed version no change. VersionNotFound; Conflict when
        it is active."""
        with self.database.write() as tx:
            return versions.fail(tx, version_id, error)

    def delete_version(self, function_id: str, number: int) -> Version:
        """VersionNotFound; VersionInUse while an alias, also by weight, points at it."""
        with self.database.write() as tx:
            return versions.remove(tx, function_id, number)

    def digests_in_use(self) -> frozenset[tuple[str, str]]:
        """(function id, digest) of every object that a version refers to, for the sweep."""
        with self.database.read() as tx:
            return versions.digests_in_use(tx)

    # --- aliases

    def aliases(self, function_id: str) -> list[Alias]:
        """By name."""
        with self.database.read() as tx:
            return aliases.all_of(tx, function_id)

    def alias(self, function_id: str, name: str) -> Alias:
        """AliasNotFound."""
        with self.database.read() as tx:
            return aliases.get(tx, function_id, name)

    def put_alias(self, function_id: str, alias: Alias) -> Alias:
        """Made or moved. FunctionNotFound, VersionNotFound, VersionNotActive, NameInvalid,
        Unprocessable."""
        with self.database.write() as tx:
            return aliases.put(tx, function_id, alias)

    def delete_alias(self, function_id: str, name: str) -> Alias:
        """FunctionNotFound, AliasNotFound; Conflict for `latest`."""
        with self.database.write() as tx:
            return aliases.remove(tx, function_id, name)

    def rollback(self, function_id: str, alias: str = LATEST) -> Alias:
        """Where the alias pointed before; again, further back. FunctionNotFound, AliasNotFound;
        Conflict when there is nothing before."""
        with self.database.write() as tx:
            return aliases.rollback(tx, function_id, alias)

    # --- keys

    def add_key(
        self,
        *,
        name: str,
        role: Role,
        namespace: str,
        functions: Sequence[str] = (),
        expires_at: datetime | None = None,
        text: str | None = None,
    ) -> tuple[Key, str]:
        """A key and its text, which is not stored. Conflict when `text` is a key already."""
        with self.database.write() as tx:
            return keys.add(
                tx,
                name=name,
                role=role,
                namespace=namespace,
                functions=functions,
                expires_at=expires_at,
                text=text,
            )

    def keys(self, namespace: str | None) -> list[Key]:
        """Of one namespace, or all; oldest first, expired ones included."""
        with self.database.read() as tx:
            return keys.all_of(tx, namespace)

    def delete_key(self, key_id: str) -> Key:
        """KeyNotFound."""
        with self.database.write() as tx:
            return keys.remove(tx, key_id)

    # --- builds

    def build(self, version_id: str) -> Build:
        """VersionNotFound."""
        with self.database.read() as tx:
            return builds.get(tx, version_id)

    def claim_build(self, version_id: str, builder: str, *, stale_before: datetime) -> Build | None:
        """The build, now the builder's, if it was queued or its builder silent since
        `stale_before`; else None."""
        with self.database.write() as tx:
            return builds.claim(tx, version_id, builder, stale_before=stale_before)

    def heartbeat(self, version_id: str, builder: str, log: str) -> bool:
        """`log` is the whole log so far. False: the build is no longer the builder's, stop."""
        with self.database.write() as tx:
            return builds.heartbeat(tx, version_id, builder, log)

    def finish_build(self, version_id: str, builder: str, status: BuildStatus, log: str) -> bool:
        """Succeeded or failed. False: it was no longer the builder's, and nothing changed."""
        with self.database.write() as tx:
            return builds.finish(tx, version_id, builder, status, log)

    def release_build(self, version_id: str, builder: str) -> bool:
        """Back to queued, the attempt not counted. False: it was no longer the builder's."""
        with self.database.write() as tx:
            return builds.release(tx, version_id, builder)

    def unfinished_builds(self) -> list[Build]:
        """Queued and running ones, oldest first."""
        with self.database.read() as tx:
            return builds.unfinished(tx)
