"""Names, references and configurations: what is legal, and that nothing is lost on the way."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import NameInvalid
from core.model import (
    FunctionConfig,
    FunctionRef,
    Key,
    RetryPolicy,
    Role,
    Version,
    VersionStatus,
    check_name,
)

LEGAL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(LEGAL)
def test_a_legal_name_is_taken_as_it_is(name: str) -> None:
    assert check_name(name, what="function") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "-", "-a", "a-", "A", "a_b", "a b", "a.b", "a:b", "a/b", "..", "a\n", "\na", "a\0"),
        *("a" * 64, "é", "а", "１", "a\u200b", "*", "\ud800"),
    ],
)
def test_an_illegal_name_is_refused_and_shown(name: str) -> None:
    with pytest.raises(NameInvalid, match="cannot name a secret") as caught:
        check_name(name, what="secret")
    caught.value.message.encode()  # whatever it holds can be sent


def test_a_refused_name_is_not_repeated_at_any_length() -> None:
    with pytest.raises(NameInvalid) as caught:
        check_name("x" * 1_000_000, what="function")
    assert len(caught.value.message) < 400


@given(st.none() | LEGAL, LEGAL, st.none() | LEGAL)
def test_a_reference_is_read_back(namespace: str | None, name: str, qualifier: str | None) -> None:
    text = f"{namespace}.{name}" if namespace is not None else name
    text = f"{text}:{qualifier}" if qualifier is not None else text
    assert FunctionRef.parse(text) == FunctionRef(namespace, name, qualifier)


@given(st.text(alphabet="ab0-.:/A\n é", max_size=12))
def test_any_text_is_a_reference_of_legal_names_or_refused(text: str) -> None:
    try:
        ref = FunctionRef.parse(text)
    except NameInvalid:
        return
    for part in (ref.namespace, ref.name, ref.qualifier):
        assert part is None or check_name(part, what="part") == part


@pytest.mark.parametrize(
    "text", ["", ".", ":", "a:", ":3", ".a", "a.", "a.b.c", "a:b:c", "a:b.c", "A.b", "a.b:C"]
)
def test_a_reference_with_an_illegal_part_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        FunctionRef.parse(text)


def test_a_configuration_survives_json() -> None:
    config = FunctionConfig(
        runtime="node24",
        handler="index.handler",
        memory_mb=64,
        cpus=0.05,
        env={"A": "\0\N{FIRE}"},
        labels={"team": "x"},
        retry=RetryPolicy(attempts=9, backoff_s=0.5),
    )
    assert FunctionConfig.from_json(json.loads(json.dumps(config.as_json()))) == config


def test_a_configuration_of_a_newer_release_can_be_read() -> None:
    raw: dict[str, Any] = FunctionConfig(runtime="node24").as_json()
    raw["invented_later"] = 1
    raw["retry"]["invented_later"] = 1
    assert FunctionConfig.from_json(raw) == FunctionConfig(runtime="node24")


def test_a_configuration_of_an_older_release_gets_the_defaults() -> None:
    assert FunctionConfig.from_json({"runtime": "node24"}) == FunctionConfig(runtime="node24")


def test_a_version_is_labelled_by_what_people_call_it() -> None:
    version = Version(
        id="v_1",
        function_id="fn_1",
        namespace="team",
        name="hello",
        number=3,
        config=FunctionConfig(runtime="node24"),
        archive_digest="d",
        archive_bytes=1,
        layers=(),
        status=VersionStatus.ACTIVE,
        error=None,
        created_at=NOW,
    )
    ref = FunctionRef.parse(version.label)
    assert (ref.namespace, ref.name, ref.qualifier) == ("team", "hello", "3")


def test_a_key_has_expired_from_its_last_moment_on() -> None:
    def key(expires_at: datetime | None) -> Key:
        return Key("key_1", "ci", "d", Role.INVOKER, "default", (), expires_at, NOW)

    assert not key(None).expired(NOW)
    assert not key(NOW + timedelta(microseconds=1)).expired(NOW)
    assert key(NOW).expired(NOW)
    assert key(NOW.astimezone(timezone(timedelta(hours=5)))).expired(NOW)
