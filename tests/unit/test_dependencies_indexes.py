"""Where packages come from, from what the settings and this host's own tools say."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import BuildFailed
from core.settings import Settings
from worker.indexes import Indexes, host_port, node_index, python_index
from worker.private_indexes import Places, places

DEFAULT = "default https://index.test/simple files.test\n"


def test_pips_default_is_left_to_pip_and_both_its_hosts_are_allowed() -> None:
    index = python_index(Places(), DEFAULT)
    assert index.environment == {}
    assert index.hosts == {("index.test", 443), ("files.test", 443)}


def test_this_hosts_configuration_is_passed_on_with_its_own_precedence() -> None:
    said = DEFAULT + (
        ":env:.index-url='https://env.test:8443/simple'\n"
        "global.index-url='https://global.test/simple'\n"
        "install.trusted-host='env.test'\n"
        "global.timeout='9'\n"
    )
    index = python_index(Places(), said)
    assert index.environment == {
        "PIP_INDEX_URL": "https://env.test:8443/simple",
        "PIP_TRUSTED_HOST": "env.test",
    }
    assert index.hosts == {("env.test", 8443)}


def test_folders_of_this_host_are_no_index_of_a_container() -> None:
    said = DEFAULT + "global.extra-index-url='file:///opt/simple\\nhttps://more.test/simple'\n"
    index = python_index(Places(), said)
    assert index.environment == {"PIP_EXTRA_INDEX_URL": "https://more.test/simple"}
    assert ("more.test", 443) in index.hosts
    assert ("index.test", 443) in index.hosts


def test_the_setting_wins_over_everything() -> None:
    mine = places(Settings(pip_index_url="http://mine.test/simple"), "default", "f")
    index = python_index(mine, DEFAULT + "global.index-url='https://global.test'\n")
    assert index.environment == {
        "PIP_INDEX_URL": "http://mine.test/simple",
        "PIP_TRUSTED_HOST": "mine.test",
    }
    assert index.hosts == {("mine.test", 80)}


def test_a_password_is_taken_out_of_whatever_can_be_seen() -> None:
    mine = Places(
        "https://user:s3cret%21@mine.test:8443/simple", ("https://t0ken@more.test/simple",)
    )
    index = python_index(mine, "")
    assert index.environment == {
        "PIP_INDEX_URL": "https://mine.test:8443/simple",
        "PIP_EXTRA_INDEX_URL": "https://more.test/simple",
        "NETRC": "/src/settings/netrc",
    }
    assert index.files["netrc"].splitlines() == [
        'machine mine.test login "user" password "s3cret!"',
        'machine more.test login "t0ken" password ""',
    ]
    assert {"s3cret%21", "s3cret!", "t0ken"} <= index.secrets
    assert index.shown == "https://mine.test:8443/simple and https://more.test/simple"
    assert index.hosts == {("mine.test", 8443), ("more.test", 443)}
    for seen in (index.identity, index.shown, str(index.environment)):
        assert not any(secret in seen for secret in index.secrets)


def test_a_changed_password_makes_no_layer_stale() -> None:
    keys = {python_index(Places(f"https://u:{word}@mine.test"), "").identity for word in "ab"}
    assert len(keys) == 1


def test_a_proxys_password_goes_into_the_file_that_the_shell_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://u:it's@proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "near.test")
    index = Indexes().python(Places("https://mine.test"))
    assert index.environment == {"PIP_INDEX_URL": "https://mine.test", "NO_PROXY": "near.test"}
    line = """export HTTPS_PROXY='http://u:it'"'"'s@proxy.test:3128'\n"""
    assert index.files == {"environment": line}
    assert ("proxy.test", 3128) in index.hosts
    assert "it's" in index.secrets


def test_npm_gets_users_tokens_and_scopes_in_a_file() -> None:
    index = node_index("https://u:p%40ss@a.test/npm", {"@acme": "https://:t0ken@b.test/x/"})
    assert index.environment == {
        "npm_config_registry": "https://a.test/npm",
        "npm_config_userconfig": "/src/settings/npmrc",
    }
    assert index.files["npmrc"].splitlines() == [
        "@acme:registry=https://b.test/x/",
        '//a.test/npm/:_auth="dTpwQHNz"',
        '//b.test/x/:_authToken="t0ken"',
    ]
    assert {"p@ss", "dTpwQHNz", "t0ken"} <= index.secrets
    assert index.identity != node_index("https://u:p%40ss@a.test/npm").identity


# --- the operator's file


def own(folder: Path, text: str, mode: int = 0o600) -> Settings:
    path = folder / "indexes.toml"
    path.write_text(text)
    path.chmod(mode)
    return Settings(
        pip_index_url="https://all.test", npm_registry="https://npm.test", build_indexes=path
    )


def test_a_function_goes_before_its_namespace_and_that_before_everything(tmp_path: Path) -> None:
    settings = own(
        tmp_path,
        """
[acme]
pip_index_url = "https://u:p@acme.test/simple"
npm_scopes = { "@acme" = "https://:t@npm.acme.test" }
[acme.functions.thumbnail]
pip_index_url = "https://thumbnail.test/simple"
pip_extra_index_urls = ["https://more.test"]
""",
    )
    assert places(settings, "default", "x") == Places(
        "https://all.test", npm_registry="https://npm.test"
    )
    whole = places(settings, "acme", "x")
    assert whole.pip_index_url == "https://u:p@acme.test/simple"
    assert whole.npm_registry == "https://npm.test"
    assert whole.npm_scopes == {"@acme": "https://:t@npm.acme.test"}
    one = places(settings, "acme", "thumbnail")
    assert (one.pip_index_url, one.pip_extra_index_urls) == (
        "https://thumbnail.test/simple",
        ("https://more.test",),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[acme", "is not TOML"),
        ("acme = 1", "acme must be a table"),
        ("[acme]\nfunctions = 1", "must be a table"),
        ("[acme]\npip_index_url = 's3cret'", "acme.pip_index_url is not what is taken"),
        ("[acme]\npip_index_url = 'file:///s3cret'", "is not what is taken"),
        ("[acme]\nnpm_registry = 'https://a.test/\\ts3cret'", "is not what is taken"),
        ('[acme]\nnpm_registry = "https://a.test/\\ns3cret"', "is not what is taken"),
        ("[acme]\nnpm_scopes = {acme = 'https://s3cret'}", "is not what is taken"),
        ("[acme]\ns3creturl = 1", "is not what is taken"),
        ("[acme.functions.f]\nnope = 1", "acme.functions.f.nope is not"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_its_values_are_not(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(BuildFailed, match=says) as refused:
        places(own(tmp_path, text), "acme", "f")
    assert "HEARTH_BUILD_INDEXES" in refused.value.message
    if "s3creturl" not in text:
        assert "s3cret" not in refused.value.message


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="only its owner may read"):
        places(own(tmp_path, "", 0o644), "acme", "f")
    with pytest.raises(BuildFailed, match="cannot be read"):
        places(Settings(build_indexes=tmp_path / "gone"), "acme", "f")


def test_pip_that_says_nothing_leaves_its_default() -> None:
    index = python_index(Places(), "")
    assert (index.environment, index.hosts) == ({}, frozenset())


def test_npm_is_told_its_registry() -> None:
    index = node_index("https://registry.test:4873/\n")
    assert index.environment == {"npm_config_registry": "https://registry.test:4873/"}
    assert index.hosts == {("registry.test", 4873)}
    assert node_index("undefined").environment == {}


def test_an_index_is_part_of_the_caches_key() -> None:
    assert node_index("https://a.test").identity != node_index("https://b.test").identity


def test_hosts_and_ports_are_read_as_people_write_them() -> None:
    assert host_port("a.test") == ("a.test", None)
    assert host_port("a.test:81") == ("a.test", 81)
    assert host_port("[fd00::1]:81") == ("fd00::1", 81)
    assert host_port("10.0.0.1") == ("10.0.0.1", None)
    assert host_port("http://a.test/x") == ("a.test", 80)
    assert host_port("https://u:p@a.test/x") == ("a.test", 443)
