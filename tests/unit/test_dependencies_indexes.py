"""Where packages come from, from what the settings and this host's own tools say."""

from __future__ import annotations

from core.settings import Settings
from worker.indexes import host_port, node_index, python_index

DEFAULT = "default https://index.test/simple files.test\n"


def test_pips_default_is_left_to_pip_and_both_its_hosts_are_allowed() -> None:
    index = python_index(Settings(), DEFAULT)
    assert index.environment == {}
    assert index.hosts == {("index.test", 443), ("files.test", 443)}


def test_this_hosts_configuration_is_passed_on_with_its_own_precedence() -> None:
    said = DEFAULT + (
        ":env:.index-url='https://env.test:8443/simple'\n"
        "global.index-url='https://global.test/simple'\n"
        "install.trusted-host='env.test'\n"
        "global.timeout='9'\n"
    )
    index = python_index(Settings(), said)
    assert index.environment == {
        "PIP_INDEX_URL": "https://env.test:8443/simple",
        "PIP_TRUSTED_HOST": "env.test",
    }
    assert index.hosts == {("env.test", 8443)}


def test_folders_of_this_host_are_no_index_of_a_container() -> None:
    said = DEFAULT + "global.extra-index-url='file:///opt/simple\\nhttps://more.test/simple'\n"
    index = python_index(Settings(), said)
    assert index.environment == {"PIP_EXTRA_INDEX_URL": "https://more.test/simple"}
    assert ("more.test", 443) in index.hosts
    assert ("index.test", 443) in index.hosts


def test_the_setting_wins_over_everything() -> None:
    settings = Settings(pip_index_url="http://mine.test/simple")
    index = python_index(settings, DEFAULT + "global.index-url='https://global.test'\n")
    assert index.environment == {"PIP_INDEX_URL": "http://mine.test/simple"}
    assert index.hosts == {("mine.test", 80)}


def test_a_password_is_known_as_a_secret() -> None:
    settings = Settings(pip_index_url="https://user:s3cret@mine.test/simple")
    assert python_index(settings, "").secrets == {"s3cret"}


def test_pip_that_says_nothing_leaves_its_default() -> None:
    index = python_index(Settings(), "")
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
