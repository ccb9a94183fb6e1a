"""A deploy, told once: an upload, or changed configuration, becomes the function's next version."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

from core.errors import BuildFailed, ConfigInvalid, FunctionNotFound, HearthError, VersionNotActive
from core.limits import BUILD_LOG_TAIL_BYTES
from core.model import FunctionConfig, Version, VersionStatus
from gateway.answers import VersionOut, answer
from gateway.ask import Ask, Parts
from gateway.auth import Right, require
from gateway.models import ConfigChanges
from gateway.settling import change, name_of, settle
from gateway.upload import Upload
from storage.archive import scan
from storage.store import object_key

BUILD_EXTRA_S = 120.0  # a build's time beside the installation: queue, upload, handler check
ATTEMPTS = 3  # to add a version to a function that others delete meanwhile

log = logging.getLogger("hearth.deploy")


async def deploy(ask: Ask, *, must_be_new: bool) -> Response:
    """The whole of PUT /v1/functions/{name} and POST /v1/functions."""
    parts = ask.parts
    await _can_build(parts)
    async with parts.uploads.receive(ask.request.scope, ask.request.receive) as upload:
        name = ask.name or name_of(upload.config)
        require(ask.caller, Right.DEPLOY, ask.namespace, name)
        facts = await asyncio.to_thread(scan, upload.path)
        config = settle(upload.config, facts.manifest, name=name, settings=parts.settings)
        new = _New(ask.namespace, name, must_be_new, config, upload)
        version = await asyncio.to_thread(_add, parts, new)
    return await _build(ask, version)


async def reconfigure(ask: Ask) -> Response:
    """The whole of PATCH /v1/functions/{name}: what `latest` runs, with other settings."""
    parts = ask.parts
    changes = await ask.json(ConfigChanges, ConfigInvalid)
    await _can_build(parts)
    version = await asyncio.to_thread(_add_changed, ask, changes)
    return await _build(ask, version)


@dataclass(frozen=True, slots=True)
class _New:
    namespace: str
    name: str
    must_be_new: bool
    config: FunctionConfig
    upload: Upload


async def _can_build(parts: Parts) -> None:
    """PartAway before anything is read or made, when nobody could be asked to build."""
    await asyncio.to_thread(parts.jobs.ping)


def _add(parts: Parts, new: _New) -> Version:
    """Object first, version second: a version's archive is always there. Blocks."""
    catalog = parts.catalog
    for left in reversed(range(ATTEMPTS)):
        function = catalog.ensure_function(new.namespace, new.name, must_be_new=new.must_be_new)
        try:
            return _put(parts, function.id, new)
        except FunctionNotFound:  # deleted between the two; the name is free again
            if not left:
                raise
        except BaseException:
            _clean_up(parts, function.id)
            raise
    raise AssertionError("unreachable")


def _put(parts: Parts, function_id: str, new: _New) -> Version:
    upload = new.upload
    parts.store.put(object_key(function_id, upload.digest), Path(upload.path))
    return parts.catalog.add_version(
        function_id, new.config, archive_digest=upload.digest, archive_bytes=upload.size
    )


def _clean_up(parts: Parts, function_id: str) -> None:
    """A first deploy that failed leaves no function behind."""
    try:
        parts.catalog.delete_unused_function(function_id)
    except HearthError as error:
        log.warning("function %s was left without a version: %s", function_id, error.message)


def _add_changed(ask: Ask, changes: ConfigChanges) -> Version:
    """The next version with the code that `latest` runs, so that nothing is built. Blocks."""
    catalog = ask.parts.catalog
    function = catalog.function(ask.namespace, ask.name)
    aliases = {alias.name: alias.version for alias in catalog.aliases(function.id)}
    if "latest" not in aliases:
        raise VersionNotActive(f"no version of {ask.name!r} is active: there is nothing to change")
    before = catalog.version(function.id, aliases["latest"])
    config = change(before.config, changes, ask.parts.settings)
    same = config.runtime == before.config.runtime  # else dependencies are built for the new one
    return catalog.add_version(
        function.id,
        config,
        archive_digest=before.archive_digest,
        archive_bytes=before.archive_bytes,
        layers=before.layers if same else (),
    )


async def _build(ask: Ask, version: Version) -> Response:
    """Ask for the build; wait for its end if the caller wants to."""
    parts = ask.parts
    try:
        await asyncio.to_thread(parts.jobs.enqueue, "build", version_id=version.id)
    except HearthError as error:  # the builder's sweep finds what is queued in the catalog
        log.warning("the build of %s waits for the sweep: %s", version.label, error.message)
    await parts.changes.made()
    if ask.flag("wait"):
        timeout_s = parts.settings.build_timeout_s + BUILD_EXTRA_S
        version = await parts.changes.build_end(version, timeout_s)
        await parts.changes.made()
    if version.status is VersionStatus.FAILED:
        raise await _failure(parts, version)
    place = f"/v1/functions/{version.namespace}.{version.name}/versions/{version.number}"
    return answer(VersionOut.of(version), _status(version), {"location": place})


def _status(version: Version) -> int:
    if version.status is VersionStatus.BUILDING:
        return 202
    return 201 if version.number == 1 else 200


async def _failure(parts: Parts, version: Version) -> BuildFailed:
    build = await asyncio.to_thread(parts.catalog.build, version.id)
    tail = build.log.encode()[-BUILD_LOG_TAIL_BYTES:].decode(errors="ignore")
    message = version.error or "the build failed"
    return BuildFailed(message, version=version.number, log=tail)
