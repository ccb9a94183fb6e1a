"""The edge's pure parts: header hygiene, keys and rights, the view, proxies, forms, errors."""

from __future__ import annotations

import hashlib
import inspect
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.snapshot import Snapshot
from core import errors
from core.errors import (
    Forbidden,
    FunctionFault,
    FunctionNotFound,
    HearthError,
    RequestInvalid,
    Unauthenticated,
)
from core.model import (
    Alias,
    Function,
    FunctionConfig,
    FunctionRef,
    Key,
    Role,
    Version,
    VersionStatus,
)
from gateway.auth import RIGHTS, Caller, Right, authenticate, require
from gateway.errors import error_body, error_headers, status_of
from gateway.headers import for_function, has_much_body, new_id, request_id, trace_parent
from gateway.invoke import checked_event, parse_ref, with_query
from gateway.view import NotInView, View, index

NOW = datetime(2030, 1, 1, tzinfo=UTC)


# --- errors --------------------------------------------------------------------------------------


def all_errors() -> list[type[HearthError]]:
    """Every class of the tree."""
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in found if issubclass(kind, HearthError)]


def made(kind: type[HearthError]) -> HearthError:
    """One of that class."""
    return kind("part", "says") if kind is errors.PartAway else kind("says")


def test_every_error_has_a_status_of_the_side_that_must_act() -> None:
    for kind in all_errors():
        status = status_of(made(kind))
        if issubclass(kind, errors.CallerError):
            assert 400 <= status < 500, kind
        elif issubclass(kind, errors.FunctionUnloadable):
            assert status == 503, kind
        elif issubclass(kind, errors.FunctionFault):
            assert status in (502, 504), kind
        else:
            assert status in (500, 501, 503), kind


def test_what_passes_by_itself_says_when_to_come_back() -> None:
    for kind in all_errors():
        error = made(kind)
        headers = dict(error_headers(error, status_of(error), b"{}", "id"))
        assert (b"retry-after" in headers) == (status_of(error) in (429, 503)), kind
    busy = errors.NodeFull("full", retry_after_s=2.4)
    assert (b"retry-after", b"2") in error_headers(busy, 503, b"", "id")


def test_a_stranger_learns_nothing_of_the_functions_inside() -> None:
    error = FunctionFault("secret", type="KeyError", trace=["line"], found=["x"], log="secret")
    assert error_body(error, "id", for_owner=False) == (
        b'{"error": {"code": "function_error", "message": "The function failed.", '
        b'"request_id": "id"}}'
    )
    assert b"secret" in error_body(error, "id")


# --- headers -------------------------------------------------------------------------------------


def test_ids_are_random_uuids() -> None:
    ids = {new_id() for _ in range(2000)}
    assert len(ids) == 2000
    for text in ids:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, text)


@given(st.binary(max_size=140))
def test_a_request_id_is_kept_only_if_it_can_stand_in_a_log(sent: bytes) -> None:
    kept = request_id(sent)
    if kept is not None:
        assert 1 <= len(kept) <= 128
        assert kept.encode() == sent
        assert all(c.isascii() and (c.isalnum() or c in "._-") for c in kept)


def test_a_traceparent_is_w3cs() -> None:
    good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert trace_parent(good) == good.decode()
    for bad in (None, b"", b"ff" + good[2:], good.upper(), good[:-1], good + b"1", b"x" + good):
        assert trace_parent(bad) is None


NAMES = st.sampled_from(
    b"accept x-a connection te upgrade x-hearth-x x-forwarded-for forwarded cookie authorization "
    b"keep-alive proxy-authorization".split()
)
VALUES = st.sampled_from([b"x-a", b"close", b"keep-alive, x-a", b"hearth_s=1; a=2", b"hearth_=1"])


@given(st.lists(st.tuples(NAMES, VALUES | st.binary(max_size=5)), max_size=12), st.booleans())
def test_no_header_that_is_not_the_functions_ever_passes(
    headers: list[tuple[bytes, bytes]], consumed: bool
) -> None:
    seen = for_function(headers, [["x-forwarded-for", "1.2.3.4"]], consumed=consumed)
    names = Counter(name for name, _ in seen)
    banned = ("connection", "te", "upgrade", "keep-alive", "proxy-authorization", "x-hearth-x")
    assert not any(name in names for name in (*banned, "forwarded"))
    assert names["x-forwarded-for"] == 1
    assert not (consumed and names["authorization"])
    for name, value in seen:
        assert name != "cookie" or "hearth_" not in value.lower()
    kept = [name.decode() for name, _ in headers if name == b"accept"]
    assert names["accept"] == len(kept)


def test_a_connection_header_names_what_else_belongs_to_it() -> None:
    headers = [(b"x-a", b"1"), (b"connection", b"Keep-Alive, X-A"), (b"x-b", b"2")]
    assert for_function(headers, (), consumed=False) == [["x-b", "2"]]


def test_a_body_worth_a_connection_is_told_from_the_head() -> None:
    assert has_much_body({b"transfer-encoding": b"chunked"})
    assert has_much_body({b"content-length": b"70000"})
    assert not has_much_body({b"content-length": b"60000"})
    assert not has_much_body({})


# --- keys ----------------------------------------------------------------------------------------


def key(role: Role = Role.ADMIN, namespace: str = "default", **facts: Any) -> tuple[Caller, bytes]:
    """A caller and its Authorization header."""
    text = f"hk_{uuid.uuid4().hex}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    values = {"functions": (), "expires_at": None, "created_at": NOW, **facts}
    made = Key(id="key_1", name="k", digest=digest, role=role, namespace=namespace, **values)
    return Caller.of(made), b"Bearer " + text.encode()


def test_a_key_is_known_by_its_digest_only() -> None:
    caller, header = key()
    callers = {caller.key.digest: caller}
    assert authenticate(callers, header) is caller
    assert authenticate(callers, header.replace(b"Bearer", b"bearer") + b" ") is caller
    for foreign in (None, b"", b"Basic x", b"Bearer", b"Bearer other", b"Bearerhk_x"):
        assert authenticate(callers, foreign) is None
    for unknown in (header[:-1], header + b"x", b"Bearer hk_", b"Bearer hk_\xff"):
        with pytest.raises(Unauthenticated):
            authenticate(callers, unknown)
    wrong = {caller.key.digest: key()[0]}  # a view that lies: the digest decides
    with pytest.raises(Unauthenticated):
        authenticate(wrong, header)


def test_an_expired_key_is_unknown() -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    caller, header = key(expires_at=past)
    with pytest.raises(Unauthenticated, match="expired"):
        authenticate({caller.key.digest: caller}, header)


def test_roles_include_the_next_and_viewers_read_only() -> None:
    admin, deployer = RIGHTS[Role.ADMIN], RIGHTS[Role.DEPLOYER]
    assert admin > deployer > RIGHTS[Role.INVOKER]
    assert RIGHTS[Role.VIEWER] == {Right.READ}
    assert set(RIGHTS) == set(Role)


def test_what_a_key_may_depends_on_role_namespace_and_functions() -> None:
    caller, _ = key(Role.DEPLOYER, "team", functions=("a",))
    assert caller.may(Right.DEPLOY, "team", "a")
    assert not caller.may(Right.DEPLOY, "team", "b")
    assert not caller.may(Right.DEPLOY, "default", "a")
    assert not caller.may(Right.DEPLOY, "team", None)
    assert caller.may(Right.READ, "team", None)
    with pytest.raises(Forbidden, match="restricted"):
        require(caller, Right.INVOKE, "team", "b")
    with pytest.raises(Forbidden, match="role"):
        require(caller, Right.ADMIN, "team", "a")
    with pytest.raises(FunctionNotFound):
        require(caller, Right.INVOKE, "default", "a")
    with pytest.raises(Unauthenticated):
        require(None, Right.READ, "team", "a")
    platform, _ = key(Role.VIEWER, "*")
    assert platform.may(Right.READ, "anything", "a")
    assert platform.home == "default"


# --- the view ------------------------------------------------------------------------------------


def version(number: int, **config: Any) -> Version:
    """An active version of `hello`."""
    return Version(
        id=f"v_{number}",
        function_id="fn_1",
        namespace="default",
        name="hello",
        number=number,
        config=FunctionConfig("python3.13", **config),
        archive_digest="0" * 64,
        archive_bytes=1,
        layers=("0" * 64,),
        status=VersionStatus.ACTIVE,
        error=None,
        created_at=NOW,
    )


def view_of(versions: list[Version], *aliases: Alias) -> View:
    """A view of one function."""
    view = View(None, gone.append)  # type: ignore[arg-type]
    function = Function("fn_1", "default", "hello", NOW)
    view._replace(index(Snapshot(1, (function,), tuple(versions), {"fn_1": aliases}, ())))
    return view


gone: list[str] = []


def test_names_lead_to_versions() -> None:
    view = view_of([version(1), version(2)], Alias("latest", 2), Alias("prod", 1))
    for qualifier, number in ((None, 2), ("latest", 2), ("prod", 1), ("1", 1), ("2", 2)):
        assert view.target("default", "hello", qualifier).version.number == number
    with pytest.raises(FunctionNotFound):
        view.target("team", "hello", None)
    with pytest.raises(errors.AliasNotFound):
        view.target("default", "hello", "beta")
    with pytest.raises(NotInView):
        view.target("default", "hello", "3")
    with pytest.raises(NotInView):
        view_of([]).target("default", "hello", None)


def test_a_split_sends_the_shares_it_says() -> None:
    alias = Alias("latest", 1, {2: 0.25, 3: 0.5, 9: 0.1})  # 9 is not active: its share stays
    view = view_of([version(1), version(2), version(3)], alias)
    drawn = Counter(view.target("default", "hello", None).version.number for _ in range(8000))
    assert set(drawn) == {1, 2, 3}
    assert abs(drawn[2] / 8000 - 0.25) < 0.05
    assert abs(drawn[3] / 8000 - 0.5) < 0.05


def test_a_disabled_version_is_refused() -> None:
    view = view_of([version(1, enabled=False)], Alias("latest", 1))
    with pytest.raises(errors.FunctionDisabled):
        view.target("default", "hello", None)


def test_versions_that_vanish_are_retired() -> None:
    view = view_of([version(1), version(2)], Alias("latest", 2))
    gone.clear()
    function, latest = Function("fn_1", "default", "hello", NOW), Alias("latest", 2)
    view._replace(index(Snapshot(2, (function,), (version(2),), {"fn_1": (latest,)}, ())))
    assert gone == ["v_1"]


# --- invocations ---------------------------------------------------------------------------------


def test_refs_are_read_as_they_are_sent() -> None:
    assert parse_ref(b"team.hello:prod") == FunctionRef("team", "hello", "prod")
    assert parse_ref(b"hello%3A3") == FunctionRef(None, "hello", "3")
    for odd in (b"", b"%2F", b"a%00", b"a:b:c", b"a.b.c", b"\xff", b"a:", b".a"):
        with pytest.raises(errors.NameInvalid):
            parse_ref(odd)
    ref = FunctionRef("team", "hello", None)
    assert with_query(ref, b"qualifier=prod&mode=sync").qualifier == "prod"
    for odd in (b"mode=x", b"a=b", b"qualifier"):
        with pytest.raises(errors.CallerError):
            with_query(ref, odd)


def test_short_events_are_json_or_refused() -> None:
    assert checked_event(b"") == b"{}"
    deep = b"[" * 500 + b"]" * 500
    for good in (b"{}", b" [1, 2.5e3, null] ", b'"\\ud800"', '"é"'.encode(), deep):
        assert checked_event(good) == good
    for bad in (
        b"{",
        b"NaN",
        b"-Infinity",
        b"'a'",
        b"\xff",
        b"[" * 500,
        b"{} {}",
        b"\xef\xbb\xbf{}",
    ):
        with pytest.raises(RequestInvalid):
            checked_event(bad)
