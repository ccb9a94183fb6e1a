"""What clients may send: the models, and how a configuration is settled."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import CallerError, ConfigInvalid, HearthError, RequestInvalid
from core.model import FunctionConfig, RetryPolicy
from core.settings import Settings
from gateway.models import AliasChange, ConfigChanges, DeployConfig, InlineDeploy, read_json
from gateway.settling import change, name_of, read_manifest, settle

SETTINGS = Settings(default_memory_mb=192, default_timeout_s=11.0, default_concurrency=3)


def settled(said: dict[str, Any], manifest: str | None = None) -> FunctionConfig:
    """The configuration of a deploy that says this."""
    sent = read_json(DeployConfig, json.dumps(said).encode())
    toml = None if manifest is None else manifest.encode()
    return settle(sent, toml, name="hello", settings=SETTINGS)


def refused(said: Any, model: type[Any] = DeployConfig) -> list[str]:
    """The fields that the refusal names."""
    with pytest.raises(ConfigInvalid) as caught:
        read_json(model, json.dumps(said).encode())
    return [field["field"] for field in caught.value.details["fields"]]


def test_every_field_of_a_function_can_be_said_and_nothing_else() -> None:
    known = {field.name for field in fields(FunctionConfig)}
    assert set(ConfigChanges.model_fields) == known


def test_the_models_defaults_are_those_of_a_function() -> None:
    ours = FunctionConfig(runtime="python3.13")
    for field in fields(FunctionConfig):
        if field.name not in ("runtime", "retry"):
            default = ConfigChanges.model_fields[field.name].get_default(call_default_factory=True)
            assert default == getattr(ours, field.name), field.name
    assert ConfigChanges().retry.model_dump() == {
        field.name: getattr(RetryPolicy(), field.name) for field in fields(RetryPolicy)
    }


def test_what_nobody_says_comes_from_the_settings() -> None:
    config = settled({"runtime": "python"})
    assert config.runtime == "python3.13"
    assert (config.memory_mb, config.timeout_s, config.concurrency) == (192, 11.0, 3)
    assert config.handler == "main.handler"


def test_the_request_wins_over_the_manifest_and_that_over_the_settings() -> None:
    manifest = 'runtime = "node"\nmemory_mb = 256\ntimeout_s = 3\nname = "proposed"'
    config = settled({"memory_mb": 512}, manifest)
    assert (config.runtime, config.memory_mb, config.timeout_s) == ("node24", 512, 3)


def test_a_change_replaces_a_field_as_a_whole_and_leaves_the_others() -> None:
    before = settled({"runtime": "python", "env": {"A": "1", "B": "2"}, "retry": {"attempts": 9}})
    after = change(before, ConfigChanges(env={"C": "3"}), SETTINGS)
    assert after == replace(before, env={"C": "3"})
    assert change(before, ConfigChanges(), SETTINGS) == before
    assert change(before, read_json(ConfigChanges, b'{"retry": {}}'), SETTINGS).retry.attempts == 3


def test_a_name_must_be_the_paths_and_post_needs_one() -> None:
    assert settled({"runtime": "python", "name": "hello"}).runtime == "python3.13"
    with pytest.raises(ConfigInvalid, match="'other'"):
        settled({"runtime": "python", "name": "other"})
    with pytest.raises(ConfigInvalid, match="required"):
        name_of(DeployConfig())


def test_the_runtime_is_needed_somewhere() -> None:
    with pytest.raises(ConfigInvalid, match="runtime: required"):
        settled({})
    with pytest.raises(ConfigInvalid, match="unknown runtime"):
        settled({"runtime": ""})


@pytest.mark.parametrize("junk", [b"\xff\xfe", b"= 1", b"a = ", b"[a\n", b"\0"])
def test_a_manifest_that_is_not_toml_is_said(junk: bytes) -> None:
    with pytest.raises(ConfigInvalid, match=r"hearth\.toml cannot be read"):
        read_manifest(junk)


@pytest.mark.parametrize(
    ("field", "lowest", "highest", "beyond"),
    [
        ("memory_mb", 64, 10_240, (15, 10_241, "64", 64.0, None, True)),
        ("cpus", 0.05, 64, (0.04, 64.1, "1", None)),
        ("timeout_s", 0.1, 900, (0.09, 900.1, "1", -1)),
        ("concurrency", 1, 1000, (0, 1001, 1.0)),
        ("keep_warm_s", 0, 86_400, (-1, 86_401)),
    ],
)
def test_numbers_have_ranges_and_types(
    field: str, lowest: float, highest: float, beyond: tuple[Any, ...]
) -> None:
    for value in (lowest, highest):
        assert getattr(settled({"runtime": "python", field: value}), field) == value
    for value in beyond:
        assert refused({field: value}) == [field], value


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"min_warm": 11, "concurrency": 10}, "min_warm"),
        ({"isolation": "request", "runtime": "node"}, "isolation"),
        ({"isolation": "request", "per_sandbox": 2}, "per_sandbox"),
        ({"memory_mb": 63}, "memory_mb"),
        ({"timeout_mode": "graceful", "timeout_s": 2}, "grace_s"),
        ({"timeout_mode": "graceful", "timeout_s": 10, "grace_s": 10}, "grace_s"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    fields: dict[str, object], at_fault: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        settled({"runtime": "python", **fields})
    assert [field["field"] for field in caught.value.details["fields"]] == [at_fault]


@pytest.mark.parametrize(
    "fields",
    [
        {"network": "egress", "per_sandbox": 100, "min_warm": 10, "concurrency": 10},
        {"isolation": "request", "timeout_mode": "graceful", "grace_s": 0},
        {"timeout_mode": "hard", "timeout_s": 1, "grace_s": 2},
        {"runtime": "node", "per_sandbox": 8, "idle": "run"},
    ],
)
def test_fields_that_go_together_are_kept(fields: dict[str, object]) -> None:
    config = settled({"runtime": "python", **fields})
    assert {name: getattr(config, name) for name in fields if name != "runtime"} == {
        name: value for name, value in fields.items() if name != "runtime"
    }


def test_numbers_that_are_none_are_refused() -> None:
    for text in (b'{"cpus": NaN}', b'{"timeout_s": Infinity}', b'{"cpus": 1e999}'):
        with pytest.raises(CallerError):
            read_json(DeployConfig, text)


def test_what_is_not_an_object_is_refused_without_repeating_it() -> None:
    for body, error in (
        (b"", RequestInvalid),
        (b"{", RequestInvalid),
        (b"hunter2", RequestInvalid),
        (b"[]", ConfigInvalid),
        (b"1", ConfigInvalid),
        (b'"hunter2"', ConfigInvalid),
        (b'{"env": {"P": ["hunter2"]}}', ConfigInvalid),
    ):
        with pytest.raises(error) as caught:
            read_json(DeployConfig, body)
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in repr(caught.value.details)


def test_a_secret_in_a_wrong_field_is_not_repeated() -> None:
    assert refused({"memory_mb": "hunter2"}) == ["memory_mb"]
    with pytest.raises(ConfigInvalid) as caught:
        read_json(DeployConfig, b'{"env": {"P": "hunter2\\u0000"}}')
    assert "hunter2" not in repr(caught.value.details) + str(caught.value)


@pytest.mark.parametrize("name", ["A", "_a1", "PATH", "x" * 128])
def test_env_takes_ordinary_names(name: str) -> None:
    assert settled({"runtime": "python", "env": {name: "v"}}).env == {name: "v"}


@pytest.mark.parametrize(
    "name", ["", "1A", "A-B", "A B", "A=B", "é", "x" * 129, "HOME", "_HANDLER", "HEARTH_SOCKET"]
)
def test_env_refuses_odd_and_reserved_names(name: str) -> None:
    assert refused({"env": {name: "v"}}) == ["env"]


@pytest.mark.parametrize(
    "handler", ["main.handler", "a/b.c", "src/index.handler", "a.b.c", "_x.$y"]
)
def test_handlers_of_every_language_can_be_named(handler: str) -> None:
    assert settled({"runtime": "python", "handler": handler}).handler == handler


@pytest.mark.parametrize("handler", ["main:app", "src/shop.web:app.wsgi_app", "server:$app"])
@pytest.mark.parametrize("runtime", ["python", "node"])
def test_web_applications_can_be_named(runtime: str, handler: str) -> None:
    assert settled({"runtime": runtime, "handler": handler}).handler == handler


@pytest.mark.parametrize(
    "handler",
    ["main:", ":app", "main:app:x", "main:create_app()", "main:a/b", "main:1", "../m:app", "m: a"],
)
def test_applications_that_cannot_be_named_are_refused(handler: str) -> None:
    assert refused({"handler": handler}) == ["handler"]


@pytest.mark.parametrize("handler", ["", "../x.y", "/etc/passwd", "a b", "a\n.b", "-x.y", "a//b.c"])
def test_handlers_that_lead_elsewhere_are_refused(handler: str) -> None:
    assert refused({"handler": handler}) == ["handler"]


def test_an_alias_takes_shares_of_other_versions() -> None:
    assert read_json(AliasChange, b'{"version": 3, "weights": {"4": 0.1}}').weights == {"4": 0.1}
    for weights in ({"3": 0.1}, {"04": 0.1}, {"x": 0.1}, {"4": 0}, {"4": 1.0}, {"4": "0.1"}):
        assert refused({"version": 3, "weights": weights}, AliasChange)


def test_inline_code_has_a_size() -> None:
    assert refused({"config": {}, "code": ""}, InlineDeploy) == ["code"]
    assert refused({"config": {}, "code": "x" * 600_000}, InlineDeploy) == ["code"]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(DeployConfig.model_fields)) | st.text(), JUNK))
def test_whatever_is_sent_is_a_config_or_a_typed_error(said: dict[str, Any]) -> None:
    try:
        sent = read_json(DeployConfig, json.dumps(said).encode())
        config = settle(sent, None, name="hello", settings=SETTINGS)
    except HearthError as error:
        json.dumps(error.details)
    else:
        assert FunctionConfig.from_json(json.loads(json.dumps(config.as_json()))) == config


def test_what_a_manifest_says_of_packing_is_checked_and_is_no_configuration() -> None:
    said = read_manifest(b'memory_mb = 256\ninclude = ["dist/"]\nexclude = ["*.md", "!a.md"]\n')
    assert said == {"memory_mb": 256}
    with pytest.raises(ConfigInvalid, match="leads out of the directory"):
        read_manifest(b'exclude = ["../x"]')
    with pytest.raises(ConfigInvalid, match="include"):
        read_manifest(b'include = "dist"')
    with pytest.raises(ConfigInvalid, match="exclude"):
        read_json(DeployConfig, b'{"exclude": ["x"]}')
