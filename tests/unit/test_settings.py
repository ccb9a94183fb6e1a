"""Settings.from_env: defaults, what each kind of value takes, and values meant to hurt."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from core.settings import Settings, SettingsInvalid


def test_an_empty_environment_gives_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({})
    assert settings.data_dir == tmp_path / ".hearth"
    assert settings.base_url == "http://127.0.0.1:8080"
    assert settings.database == f"sqlite:///{tmp_path}/.hearth/catalog.db"
    assert settings.redis_is_embedded
    assert settings.redis == f"unix://{settings.run_dir}/redis.sock"


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_env({"HEARTH_STEMS": "", "HEARTH_NODE": "  "}).node == "node-1"


def test_every_field_can_be_set_from_the_environment() -> None:
    environ = {
        f"HEARTH_{spec.name.upper()}": _another(spec.name, spec.default)
        for spec in fields(Settings)
    }
    settings, default = Settings.from_env(environ), Settings.from_env({})
    same = [
        s.name for s in fields(Settings) if getattr(settings, s.name) == getattr(default, s.name)
    ]
    assert same == []


def _another(name: str, default: object) -> str:
    """A legal value that is not the default."""
    special = {
        "address": "[::1]:9000",
        "durability": "relaxed",
        "egress_allow": "10.0.0.1",
        "log_level": "debug",
        "data_dir": "/srv/hearth",
    }
    if name in special:
        return special[name]
    if isinstance(default, bool):
        return "true"
    if isinstance(default, int | float):
        return str(default + 1)
    return "other"


def test_two_data_directories_never_share_a_run_directory() -> None:
    one = Settings.from_env({"HEARTH_DATA_DIR": "/srv/one"})
    two = Settings.from_env({"HEARTH_DATA_DIR": "/srv/two"})
    assert one.run_dir != two.run_dir
    assert one.run_dir == Settings.from_env({"HEARTH_DATA_DIR": "/srv/./x/../one"}).run_dir


@pytest.mark.parametrize("name", ["HEARTH_DATA_DIR", "HEARTH_RUN_DIR"])
def test_a_relative_directory_is_made_absolute(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    field = name.removeprefix("HEARTH_").lower()
    assert getattr(Settings.from_env({name: "here"}), field) == tmp_path / "here"


@pytest.mark.parametrize(
    ("raw", "value"), [("yes", True), ("ON", True), ("0", False), ("No", False)]
)
def test_a_switch_takes_the_usual_words(raw: str, value: bool) -> None:
    assert Settings.from_env({"HEARTH_S3_PATH_STYLE": raw}).s3_path_style is value


def test_a_list_loses_its_blanks_and_empty_parts() -> None:
    settings = Settings.from_env({"HEARTH_TRUSTED_PROXIES": " 10.0.0.1, ,10.1.0.0/16,"})
    assert settings.trusted_proxies == ("10.0.0.1", "10.1.0.0/16")


def test_an_account_id_derives_the_endpoint_unless_one_is_named() -> None:
    derived = Settings.from_env({"HEARTH_S3_ACCOUNT_ID": "abc123"}).s3_endpoint
    assert derived.startswith("https://abc123.")
    named = {"HEARTH_S3_ACCOUNT_ID": "abc123", "HEARTH_S3_ENDPOINT": "http://127.0.0.1:1"}
    assert Settings.from_env(named).s3_endpoint == "http://127.0.0.1:1"


def test_tls_changes_the_scheme() -> None:
    environ = {"HEARTH_TLS_CERT": "/c.pem", "HEARTH_TLS_KEY": "/k.pem"}
    assert Settings.from_env(environ).base_url == "https://127.0.0.1:8080"


def test_an_ipv6_address_loses_its_brackets_as_a_host_only() -> None:
    settings = Settings.from_env({"HEARTH_ADDRESS": "[::1]:9000"})
    assert (settings.host, settings.port) == ("::1", 9000)
    assert settings.base_url == "http://[::1]:9000"


REFUSED = [
    ("HEARTH_ADDRESS", "8080"),
    ("HEARTH_ADDRESS", ":8080"),
    ("HEARTH_ADDRESS", "127.0.0.1:"),
    ("HEARTH_ADDRESS", "127.0.0.1:65536"),
    ("HEARTH_ADDRESS", "127.0.0.1:8²"),
    ("HEARTH_ADDRESS", "127.0.0.1:" + "9" * 5000),
    ("HEARTH_DEFAULT_MEMORY_MB", "63"),
    ("HEARTH_DEFAULT_MEMORY_MB", "10241"),
    ("HEARTH_DEFAULT_MEMORY_MB", "128MB"),
    ("HEARTH_DEFAULT_MEMORY_MB", "128.5"),
    ("HEARTH_DEFAULT_MEMORY_MB", "9" * 5000),
    ("HEARTH_DEFAULT_CPUS", "nan"),
    ("HEARTH_DEFAULT_CPUS", "inf"),
    ("HEARTH_DEFAULT_TIMEOUT_S", "-1"),
    ("HEARTH_DRAIN_S", "inf"),
    ("HEARTH_UID_BASE", "0"),
    ("HEARTH_UID_BASE", str(2**32 - 2)),
    ("HEARTH_S3_PATH_STYLE", "maybe"),
    ("HEARTH_S3_KEY_ID", "id-without-secret"),
    ("HEARTH_S3_SECRET", "secret-without-id"),
    ("HEARTH_S3_ACCOUNT_ID", "elsewhere.example/"),
    ("HEARTH_TLS_CERT", "/cert/without/key"),
    ("HEARTH_TLS_KEY", "/key/without/cert"),
    ("HEARTH_DURABILITY", "somewhat"),
    ("HEARTH_LOG_LEVEL", "loud"),
    ("HEARTH_DATA_DIR", "~nobody-of-that-name/x"),
    ("HEARTH_RUN_DIR", "~nobody-of-that-name/x"),
]


@pytest.mark.parametrize(("name", "raw"), REFUSED)
def test_a_value_that_cannot_be_used_is_refused_by_name(name: str, raw: str) -> None:
    with pytest.raises(SettingsInvalid, match=name):
        Settings.from_env({name: raw})


SECRETS = [
    {"HEARTH_S3_KEY_ID": "id", "HEARTH_S3_SECRET": "hunter2"},
    {"HEARTH_S3_SESSION_TOKEN": "hunter2"},
    {"HEARTH_DATABASE_URL": "postgresql://me:hunter2@db/hearth"},
    {"HEARTH_REDIS_URL": "redis://:hunter2@cache"},
    {"HEARTH_PIP_INDEX_URL": "https://me:hunter2@index/simple"},
    {"HEARTH_NPM_REGISTRY": "https://me:hunter2@registry"},
]


@pytest.mark.parametrize("environ", SECRETS, ids=lambda environ: list(environ)[-1])
def test_no_repr_shows_a_password(environ: dict[str, str]) -> None:
    settings = Settings.from_env(environ)
    assert "hunter2" not in repr(settings)
    assert "hunter2" in str([getattr(settings, spec.name) for spec in fields(settings)])


def test_a_refusal_never_shows_the_secret_itself() -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Settings.from_env({"HEARTH_S3_SECRET": "hunter2"})
    assert "hunter2" not in str(refused.value)
