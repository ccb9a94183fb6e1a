"""What a build makes of an upload: an active version, or a failed one that says why."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import PartAway
from core.limits import BUILD_ATTEMPTS_MAX
from core.model import Alias, BuildStatus, VersionStatus
from storage.store import object_key
from tests.integration.builds.conftest import Workshop, eventually

HELLO: dict[str, str | bytes] = {"main.py": "def handler(event, context):\n    return event\n"}


def test_a_function_without_dependencies_becomes_active(workshop: Workshop) -> None:
    version = workshop.build(workshop.deploy(HELLO))
    assert version.status is VersionStatus.ACTIVE
    assert version.layers == (version.archive_digest,)
    assert workshop.gateway.asked == [{"version_id": version.id, "layers": [*version.layers]}]
    build = workshop.catalog.build(version.id)
    assert build.status is BuildStatus.SUCCEEDED
    assert build.log.splitlines()[-1].startswith("ready: default.hello:1 is active")
    assert workshop.catalog.alias(version.function_id, "latest") == Alias("latest", 1)


def test_a_handler_that_is_not_there_fails_the_build_and_says_what_is(workshop: Workshop) -> None:
    error = {
        "code": "function_init_failed",
        "type": "HandlerNotFound",
        "message": "main.py has no handler",
        "found": ["handle", "other"],
        "log": "importing\nslowly\n",
        "trace": ["Traceback (most recent call last):\n", "  File …\n"],
    }
    workshop.gateway.answer = lambda _: (422, {"error": error})
    version = workshop.build(workshop.deploy(HELLO))
    expected = "HandlerNotFound: main.py has no handler (found: handle, other)"
    assert (version.status, version.error) == (VersionStatus.FAILED, expected)
    lines = workshop.log_of(version).splitlines()
    assert lines[-1] == f"failed: {expected}"
    assert "  slowly" in lines
    assert "Traceback (most recent call last):" in lines


@pytest.mark.parametrize(("status", "change"), [(200, "activate"), (422, "fail")])
def test_who_sees_the_end_of_a_version_finds_its_last_line_in_the_log(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, status: int, change: str
) -> None:
    workshop.gateway.answer = lambda _: (status, {"error": {"message": "no"}})
    version = workshop.deploy(HELLO)
    seen: list[str] = []
    real = getattr(workshop.catalog, change)

    def observed(*arguments: object) -> object:
        seen.append(workshop.log_of(version).splitlines()[-1].split(":")[0])
        return real(*arguments)

    monkeypatch.setattr(workshop.catalog, change, observed)
    workshop.build(version)
    assert seen == ["ready" if change == "activate" else "failed"]


def test_a_failed_build_leaves_the_version_before_it_serving(workshop: Workshop) -> None:
    first = workshop.build(workshop.deploy(HELLO))
    workshop.gateway.answer = lambda _: (422, {"error": {"message": "no"}})
    second = workshop.build(workshop.deploy({"main.py": "import nothing"}))
    assert second.status is VersionStatus.FAILED
    assert workshop.catalog.alias(first.function_id, "latest").version == first.number


def test_a_config_change_goes_straight_to_the_check(workshop: Workshop) -> None:
    first = workshop.build(workshop.deploy(HELLO))
    second = workshop.catalog.add_version(
        first.function_id,
        first.config,
        archive_digest=first.archive_digest,
        archive_bytes=first.archive_bytes,
        layers=first.layers,
    )
    workshop.settings.podman_socket.unlink(missing_ok=True)
    second = workshop.build(second)
    assert second.status is VersionStatus.ACTIVE
    assert "nothing to install" in workshop.log_of(second)


def test_a_build_waits_for_a_gateway_that_is_away(workshop: Workshop) -> None:
    workshop.gateway.stop()
    version = workshop.deploy(HELLO)
    builder = workshop.builder()
    thread = threading.Thread(target=builder.build, args=(version.id,))
    thread.start()
    eventually(lambda: "waiting for the gateway" in workshop.log_of(version), "it says it waits")
    workshop.gateway.start()
    thread.join()
    assert workshop.catalog.version_by_id(version.id).status is VersionStatus.ACTIVE


def test_a_gateway_that_stays_away_costs_the_build_nothing(workshop: Workshop) -> None:
    workshop.gateway.stop()
    version = workshop.build(workshop.deploy(HELLO), build_timeout_s=0.3)
    build = workshop.catalog.build(version.id)
    assert version.status is VersionStatus.BUILDING
    assert (build.status, build.attempts) == (BuildStatus.QUEUED, 0)
    assert "to be tried again: gateway:" in build.log


def test_a_node_that_has_no_room_for_too_long_fails_the_build(workshop: Workshop) -> None:
    workshop.gateway.answer = lambda _: (503, {"error": {"message": "every seat is taken"}})
    version = workshop.build(workshop.deploy(HELLO), build_timeout_s=0.3)
    assert version.error == "this node could not load the function for 0.3 s: every seat is taken"


def test_an_object_store_that_is_away_means_later_not_failed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = workshop.deploy(HELLO)
    with monkeypatch.context() as patched:

        def away(*_: object) -> None:
            raise PartAway("object store", "refuses")

        patched.setattr(type(workshop.store), "fetch", away)
        assert workshop.build(version).status is VersionStatus.BUILDING
    assert workshop.catalog.build(version.id).status is BuildStatus.QUEUED
    assert workshop.build(version).status is VersionStatus.ACTIVE


@pytest.mark.parametrize("call", ["build", "claim_build", "version_by_id", "activate"])
def test_a_database_that_is_away_means_later_not_failed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    version = workshop.deploy(HELLO)
    with monkeypatch.context() as patched:

        def away(*_: object, **__: object) -> None:
            raise PartAway("database", "refuses")

        patched.setattr(workshop.catalog, call, away)
        workshop.builder().build(version.id)
    assert workshop.catalog.build(version.id).status is BuildStatus.QUEUED
    assert workshop.build(version).status is VersionStatus.ACTIVE


def test_a_database_that_stays_away_to_the_end_means_taken_over_later(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = workshop.deploy(HELLO)
    with monkeypatch.context() as patched:

        def away(*_: object, **__: object) -> None:
            raise PartAway("database", "refuses")

        for call in ("heartbeat", "version_by_id", "release_build", "finish_build"):
            patched.setattr(workshop.catalog, call, away)
        workshop.builder().build(version.id)
    assert workshop.catalog.build(version.id).status is BuildStatus.RUNNING
    monkeypatch.setattr("worker.build.BUILD_STALE_S", -1.0)
    assert workshop.build(version).status is VersionStatus.ACTIVE


def test_a_build_that_another_builder_works_on_is_left_alone(workshop: Workshop) -> None:
    version = workshop.deploy(HELLO)
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert workshop.catalog.claim_build(version.id, "elsewhere:1:1:abc", stale_before=past)
    workshop.builder().build(version.id)
    assert not workshop.gateway.asked


def test_a_build_whose_builder_on_this_node_died_is_taken_over_at_once(workshop: Workshop) -> None:
    version = workshop.deploy(HELLO)
    past = datetime.now(UTC) - timedelta(seconds=1)
    dead = f"{workshop.settings.node}:1:not-when-it-began:abc"
    assert workshop.catalog.claim_build(version.id, dead, stale_before=past)
    version = workshop.build(version)
    assert version.status is VersionStatus.ACTIVE
    assert "attempt 2: the builder died in the middle of the last" in workshop.log_of(version)


def test_a_build_that_kills_every_builder_fails_with_that_reason(workshop: Workshop) -> None:
    version = workshop.deploy(HELLO)
    for attempt in range(BUILD_ATTEMPTS_MAX):
        dead = f"{workshop.settings.node}:1:not-when-it-began:{attempt}"
        later = datetime.now(UTC) + timedelta(seconds=1)
        assert workshop.catalog.claim_build(version.id, dead, stale_before=later)
    version = workshop.build(version)
    assert (version.status, version.error) == (
        VersionStatus.FAILED,
        f"the builder died {BUILD_ATTEMPTS_MAX} times in the middle of it",
    )


def test_a_builder_that_died_after_activating_is_only_tidied_up_after(workshop: Workshop) -> None:
    version = workshop.deploy(HELLO)
    dead = f"{workshop.settings.node}:1:not-when-it-began:abc"
    past = datetime.now(UTC) - timedelta(seconds=1)
    workshop.catalog.claim_build(version.id, dead, stale_before=past)
    workshop.catalog.heartbeat(version.id, dead, "building\n")
    workshop.catalog.activate(version.id, (version.archive_digest,))
    version = workshop.build(version)
    assert not workshop.gateway.asked
    build = workshop.catalog.build(version.id)
    assert (build.status, build.log) == (
        BuildStatus.SUCCEEDED,
        "building\ndefault.hello:1 is active\n",
    )


def test_a_function_deleted_in_the_middle_ends_its_build_quietly(workshop: Workshop) -> None:
    version = workshop.deploy(HELLO)

    def delete(_: object) -> tuple[int, object]:
        workshop.catalog.delete_function("default", "hello")
        return 200, {}

    workshop.gateway.answer = delete
    workshop.builder().build(version.id)
    assert workshop.catalog.unfinished_builds() == []


def test_an_archive_that_is_none_fails_the_build(workshop: Workshop) -> None:
    function = workshop.catalog.ensure_function("default", "bad", must_be_new=True)
    raw = b"this is not an archive"
    digest = hashlib.sha256(raw).hexdigest()
    path = workshop.settings.data_dir / "raw"
    path.write_bytes(raw)
    workshop.store.put(object_key(function.id, digest), path)
    config = workshop.deploy(HELLO).config
    version = workshop.catalog.add_version(
        function.id, config, archive_digest=digest, archive_bytes=len(raw)
    )
    version = workshop.build(version)
    assert version.status is VersionStatus.FAILED
    assert version.error


def test_a_fault_of_the_builder_itself_fails_the_build_instead_of_leaving_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("worker.build.unpack", broken)
    version = workshop.build(workshop.deploy(HELLO))
    assert version.error == "a fault in the builder: RuntimeError: a bug"


def test_no_work_directory_is_left_behind(workshop: Workshop) -> None:
    workshop.build(workshop.deploy(HELLO))
    workshop.gateway.answer = lambda _: (422, {})
    workshop.build(workshop.deploy({"main.py": "1"}))
    assert list((workshop.settings.data_dir / "builds").iterdir()) == []
