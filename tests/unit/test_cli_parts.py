"""The parts of the command line: project, address and key, request, logs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.calling import Seen, printable
from cli.connection import find_connection
from cli.failures import CliError
from cli.invoke import Said, content_type_of, plan
from cli.main import app
from cli.project import as_name, open_project
from cli.showcase import missing_settings
from cli.state import Running, write_running
from cli.templates import files_of

# --- projects ---


def project_of(folder: Path, **options: str) -> tuple[str, str | None]:
    """The name and the runtime that are found out."""
    said = {"name": None, "runtime": None, **options}
    project = open_project(folder, **said)
    return project.name, project.runtime


def test_the_manifest_names_the_function(tmp_path: Path) -> None:
    (tmp_path / "hearth.toml").write_text('name = "orders"\nruntime = "node"\n')
    assert project_of(tmp_path) == ("orders", None)  # the platform reads the runtime itself
    assert project_of(tmp_path, name="other", runtime="python") == ("other", "python")


def test_without_a_manifest_the_directory_names_the_function(tmp_path: Path) -> None:
    folder = tmp_path / "My_Function"
    folder.mkdir()
    (folder / "main.py").touch()
    assert project_of(folder) == ("my-function", "python")


@pytest.mark.parametrize(
    ("file", "runtime"),
    [("requirements.txt", "python"), ("package.json", "node"), ("index.mjs", "node")],
)
def test_the_files_tell_the_runtime(tmp_path: Path, file: str, runtime: str) -> None:
    (tmp_path / file).touch()
    assert open_project(tmp_path, name="x", runtime=None).runtime == runtime


def test_a_directory_that_tells_nothing_asks_for_the_runtime(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"nothing in .* tells its language") as raised:
        open_project(tmp_path, name="x", runtime=None)
    assert "--runtime" in raised.value.hint


def test_a_directory_of_two_languages_asks_which(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / "package.json").touch()
    with pytest.raises(CliError, match=r"main\.py and package\.json: is it python or node"):
        open_project(tmp_path, name="x", runtime=None)


@pytest.mark.parametrize("text", ["name = ", "\udcff"])
def test_a_broken_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "hearth.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CliError, match=r"hearth\.toml is not TOML"):
        open_project(tmp_path, name=None, runtime=None)


@pytest.mark.parametrize("name", ["fn.tar.gz", "fn.zip", "fn.tgz", "fn.py", "fn.mjs"])
def test_archives_and_single_files_are_named_after_themselves(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert open_project(tmp_path / name, name=None, runtime=None).name == "fn"


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(CliError, match=r"photo\.jpg cannot be deployed"):
        open_project(tmp_path / "photo.jpg", name=None, runtime=None)


@pytest.mark.parametrize(
    ("text", "name"),
    [("My_Function", "my-function"), ("--a  b--", "a-b"), ("é" * 5, ""), ("x" * 70, "x" * 63)],
)
def test_any_text_has_a_nearest_legal_name(text: str, name: str) -> None:
    assert as_name(text) == name


# --- templates ---


@pytest.mark.parametrize("runtime", ["python", "node"])
def test_a_new_function_works_as_it_is_written(tmp_path: Path, runtime: str) -> None:
    for path, text in files_of(runtime, "my-fn").items():
        assert "NAME" not in text
        (tmp_path / path).write_text(text)
    assert project_of(tmp_path)[0] == "my-fn"
    run = {
        "python": [
            sys.executable,
            "-c",
            "import json, main; print(json.dumps(main.handler({'name': 'Ada'}, None)))",
        ],
        "node": [
            "node",
            "--input-type=module",
            "-e",
            "import {handler} from './main.mjs';"
            "console.log(JSON.stringify(await handler({name: 'Ada'}, {})))",
        ],
    }
    done = subprocess.run(run[runtime], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "greeting Ada"
    assert json.loads(lines[1]) == {"message": "Hello, Ada!"}


def test_a_new_program_of_ones_own_is_executable_and_a_shell_understands_it(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["init", "my-fn", "-r", "custom", "-d", str(tmp_path / "f")])
    assert made.exit_code == 0, made.output
    program = tmp_path / "f" / "bootstrap"
    assert program.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(program)], check=True)
    assert project_of(tmp_path / "f")[0] == "my-fn"


def test_a_new_dart_function_is_a_package(tmp_path: Path) -> None:
    made = files_of("dart", "my-fn")
    assert made["pubspec.yaml"].startswith("name: f_my_fn\n")
    assert "NAME" not in "".join(made.values())
    assert "{package}" not in "".join(made.values())


def test_an_example_that_needs_a_setting_names_it_until_one_is_set(tmp_path: Path) -> None:
    (tmp_path / "example.json").write_text('{"needs": ["HEARTH_A", "HEARTH_B"], "calls": []}')
    assert missing_settings(tmp_path, {"HEARTH_A": ""}) == ["HEARTH_A", "HEARTH_B"]
    assert missing_settings(tmp_path, {"HEARTH_B": "/sdk"}) == []
    (tmp_path / "example.json").write_text('{"calls": []}')
    assert missing_settings(tmp_path, {}) == []


# --- address and key ---


def data_dir(folder: Path, key: str = "hk_local", url: str | None = None) -> Path:
    """A data directory as a platform leaves it."""
    made = folder / ".hearth"
    made.mkdir()
    (made / "admin.key").write_text(key + "\n")
    if url is not None:
        write_running(made, Running(1, url, "/run/h", 0.0, ready=True, children={}))
    return made


def test_the_nearest_data_directory_upwards_gives_address_and_key(tmp_path: Path) -> None:
    data_dir(tmp_path, url="http://127.0.0.1:9999")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = find_connection(None, {}, below)
    assert (found.url, found.key) == ("http://127.0.0.1:9999", "hk_local")


def test_the_environment_wins_over_the_data_directory(tmp_path: Path) -> None:
    data_dir(tmp_path)
    said = {"HEARTH_URL": "https://hearth.example/", "HEARTH_KEY": "hk_env"}
    found = find_connection(None, said, tmp_path)
    assert (found.url, found.key) == ("https://hearth.example", "hk_env")


def test_the_local_admin_key_never_goes_to_another_address(tmp_path: Path) -> None:
    data_dir(tmp_path)
    found = find_connection("https://elsewhere.example", {}, tmp_path)
    assert found.key is None
    assert "set HEARTH_KEY" in found.key_hint


def test_without_a_data_directory_the_hint_says_where_the_key_would_be(tmp_path: Path) -> None:
    found = find_connection(None, {"HEARTH_DATA_DIR": str(tmp_path / "none")}, tmp_path)
    assert found.url == "http://127.0.0.1:8080"
    assert found.key is None
    assert "none/admin.key" in found.key_hint


def test_what_is_no_address_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="'localhost:8080' is no address"):
        find_connection("localhost:8080", {}, tmp_path)


# --- requests ---


def planned(**said: Any) -> tuple[str, str, Any, str | None]:
    """Method, path, body and content type of an invocation."""
    request = plan(Said("hello", **said))
    kind = {k.lower(): v for k, v in request.headers.items()}.get("content-type")
    return request.method, request.path, request.body, kind


EVENT = "/v1/functions/hello/invocations"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ("POST", EVENT, b"{}", "application/json")),
        ({"data": "[1]"}, ("POST", EVENT, b"[1]", "application/json")),
        ({"piped": b'"x"'}, ("POST", EVENT, b'"x"', "application/json")),
        ({"piped": b"hi"}, ("POST", "/function/hello/", b"hi", "text/plain; charset=utf-8")),
        ({"piped": b"\xff"}, ("POST", "/function/hello/", b"\xff", "application/octet-stream")),
        ({"path": "/a?b=c"}, ("GET", "/function/hello/a?b=c", b"", None)),
        ({"method": "delete"}, ("DELETE", "/function/hello/", b"", None)),
        (
            {"path": "/", "data": '{"a": 1}'},
            ("POST", "/function/hello/", b'{"a": 1}', "application/json"),
        ),
        (
            {"path": "/", "data": "hi", "headers": ["content-type: text/x"]},
            ("POST", "/function/hello/", b"hi", "text/x"),
        ),
    ],
)
def test_the_route_follows_from_what_is_sent(said: dict[str, Any], expected: object) -> None:
    assert planned(**said) == expected


def test_a_file_takes_the_route_of_its_kind(tmp_path: Path) -> None:
    photo, event = tmp_path / "p.jpg", tmp_path / "e.json"
    photo.write_bytes(b"\xff\xd8")
    event.write_text("{}")
    assert planned(file=photo) == ("POST", "/function/hello/", photo, "image/jpeg")
    assert planned(file=event) == ("POST", EVENT, event, "application/json")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "image/png"),
        ("a.md", "text/markdown; charset=utf-8"),
        ("a.tar.gz", "application/gzip"),
        ("a.csv", "text/csv; charset=utf-8"),
        ("a", "application/octet-stream"),
    ],
)
def test_a_files_name_tells_its_content_type(name: str, kind: str) -> None:
    assert content_type_of(name) == kind


def test_data_that_is_no_json_says_where_it_breaks(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="--data is not JSON: Expecting") as raised:
        planned(data="{name: 1}")
    assert "--data '{" in raised.value.hint
    (tmp_path / "e.json").touch()
    with pytest.raises(CliError) as raised:
        planned(data=f"@{tmp_path / 'e.json'}")
    assert "--file" in raised.value.hint


@pytest.mark.parametrize(
    "said", [{"data": "1", "file": Path("x")}, {"path": "a"}, {"headers": ["x"]}]
)
def test_contradictions_are_usage_errors(said: dict[str, Any]) -> None:
    with pytest.raises(CliError) as raised:
        planned(**said)
    assert raised.value.exit_code == 2


def test_a_name_is_quoted_but_its_qualifier_is_not() -> None:
    assert plan(Said("ns.hello:3")).path == "/v1/functions/ns.hello:3/invocations"
    assert plan(Said("a/../b")).path == "/v1/functions/a%2F..%2Fb/invocations"


@pytest.mark.parametrize(("given", "read"), [(b"data", b"data"), (None, None)])
def test_only_pipes_and_files_are_read_from_standard_input(
    given: bytes | None, read: bytes | None
) -> None:
    code = "import sys; from cli.invoke import read_piped; sys.stderr.write(repr(read_piped()))"
    source = subprocess.DEVNULL if given is None else subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=source, stderr=subprocess.PIPE
    ) as process:
        assert process.communicate(given)[1].decode() == repr(read)


# --- logs ---


def lines(*moments: str) -> list[dict[str, str]]:
    """Log lines at these moments."""
    return [{"at": at, "text": str(number)} for number, at in enumerate(moments)]


def test_following_shows_each_line_once_even_at_the_same_moment() -> None:
    shown = lines("a", "b", "b")
    seen = Seen.of(shown)
    assert seen.new_of(lines("b", "b")) == []
    again = [{"at": "b", "text": "x"}, {"at": "b", "text": "y"}, {"at": "b", "text": "new"}]
    new = seen.new_of(again)
    assert [line["text"] for line in new] == ["new"]
    seen = seen.after(new)
    assert seen == Seen("b", 3)
    assert seen.after(lines("c")) == Seen("c", 1)
    assert seen.after([]) == seen


def test_a_log_line_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\rc\td\u202e") == "a·[2Jb·c\td·"
