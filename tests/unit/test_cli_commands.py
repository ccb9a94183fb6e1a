"""The commands against a scripted gateway: what they send, what they show, how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.scripted_gateway import (
    Answer,
    Hearth,
    ScriptedGateway,
    error,
    hearth,
    page,
    scripted_gateway,
    version,
)

__all__ = ["hearth", "scripted_gateway"]  # pytest finds fixtures by their names here


# --- how commands end ---


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(404, "function_not_found"), 3),
        (error(401, "unauthenticated"), 3),
        (error(403, "forbidden"), 3),
        (error(409, "conflict"), 3),
        (error(422, "config_invalid"), 3),
        (error(501, "feature_unavailable"), 3),
        (error(429, "concurrency_reached"), 4),
        (error(503, "part_away"), 4),
        (error(500, "internal_error"), 4),
        (error(502, "function_error"), 1),
        (error(504, "function_timeout"), 1),
        (error(422, "build_failed"), 1),
        (Answer(502, b"<html>a proxy's words</html>"), 4),
    ],
)
def test_the_exit_code_says_who_must_act(
    hearth: Hearth, scripted_gateway: ScriptedGateway, answer: Answer, code: int
) -> None:
    scripted_gateway.on("GET", "/v1/functions/hello", answer)
    result = hearth("describe", "hello")
    assert result.exit_code == code
    assert "Error:" in result.stderr
    assert not result.stdout


def test_an_unreachable_platform_says_what_to_try(hearth: Hearth) -> None:
    result = hearth("list", HEARTH_URL="http://127.0.0.1:1")
    assert result.exit_code == 4
    assert "nothing answers at http://127.0.0.1:1" in result.stderr
    assert "hearth up" in result.stderr


def test_a_usage_error_ends_with_two(hearth: Hearth) -> None:
    assert hearth("deploy", "--no-such-option").exit_code == 2
    assert hearth("deploy", "nowhere").exit_code == 2


def test_with_json_an_error_is_json_on_stdout(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    scripted_gateway.on("GET", "/v1/functions/x", error(404, "function_not_found", "no x"))
    result = hearth("describe", "x", "--json")
    said = json.loads(result.stdout)["error"]
    assert (said["code"], said["message"]) == ("function_not_found", "no x")
    assert result.exit_code == 3


def test_json_may_stand_before_the_command_too(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    scripted_gateway.on("GET", "/v1/functions", page())
    assert json.loads(hearth("--json", "list").stdout) == {"functions": []}


def test_the_key_is_sent_as_a_bearer_token(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    scripted_gateway.on("GET", "/v1/functions", page())
    hearth("list")
    assert scripted_gateway.asked[0].headers["authorization"] == "Bearer hk_test"


def test_every_command_explains_itself(hearth: Hearth) -> None:
    result = hearth("--help")
    assert result.exit_code == 0
    commands = ("up", "down", "doctor", "init", "deploy", "invoke", "logs", "list", "describe")
    for command in (*commands, "delete", "versions", "rollback", "status", "keys", "images"):
        assert command in result.stdout
        assert hearth(command, "--help").exit_code == 0


def test_the_shell_completes_the_names_of_functions(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    scripted_gateway.on("GET", "/v1/functions", page({"name": "hello"}, {"name": "other"}))
    line = {"COMP_WORDS": "hearth describe he", "COMP_CWORD": "2"}
    result = hearth(_HEARTH_COMPLETE="complete_bash", **line)
    assert result.stdout.split() == ["hello"]
    result = hearth(_HEARTH_COMPLETE="complete_bash", HEARTH_URL="http://127.0.0.1:1", **line)
    assert result.stdout.split() == []


# --- looking ---


def test_a_list_goes_through_all_its_pages(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    one = {"name": "one", "version": 1, "newest": 1, "status": "active", "config": {}}
    two = {**one, "name": "two", "newest": 2, "status": "failed"}
    scripted_gateway.on("GET", "/v1/functions", page(one, following="c"), page(two))
    result = hearth("list")
    assert "one" in result.stdout
    assert "active, 2 is failed" in result.stdout
    assert "cursor=c" in scripted_gateway.asked[1].path


def test_describe_shows_setup_addresses_and_versions(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    function = {
        "name": "hello",
        "version": 2,
        "newest": 2,
        "status": "active",
        "config": {"runtime": "python3.13", "handler": "main.handler", "env": {"A": "secret"}},
        "aliases": [{"name": "latest", "version": 2, "weights": {}}],
        "created_at": "2026-01-01T00:00:00Z",
    }
    scripted_gateway.on("GET", "/v1/functions/hello", Answer(200, function))
    scripted_gateway.on("GET", "/v1/functions/hello/versions", page(version(2), version(1)))
    result = hearth("describe", "hello")
    assert result.exit_code == 0
    assert f"{scripted_gateway.url}/function/hello" in result.stdout
    assert "latest" in result.stdout
    assert "secret" not in result.stdout  # a value may be somebody's password


def test_logs_show_lines_without_control_characters(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    line = {
        "at": "2026-01-01T10:00:00.123456Z",
        "stream": "stdout",
        "version": 1,
        "invocation_id": "abcdefgh-1",
        "text": "[bold]\x1b]0;evil\x07 text",
    }
    body = json.dumps(line).encode() + b"\n"
    scripted_gateway.on("GET", "/v1/functions/hello/logs", Answer(200, body))
    result = hearth("logs", "hello", "--tail", "5")
    assert "[bold]·]0;evil· text" in result.stdout
    assert "tail=5" in scripted_gateway.asked[0].path
    assert json.loads(hearth("logs", "hello", "--json").stdout) == line


# --- deploying ---


def deployable(folder: Path) -> Path:
    """A small function."""
    folder.mkdir()
    (folder / "main.py").write_text("def handler(event, context): return 1\n")
    return folder


def part(body: bytes, name: str) -> bytes:
    """One part of a multipart form."""
    found = next(p for p in body.split(b"\r\n--") if f'name="{name}"'.encode() in p)
    return found.partition(b"\r\n\r\n")[2]


def test_deploy_sends_what_the_flags_say_and_waits_for_the_build(
    hearth: Hearth, scripted_gateway: ScriptedGateway, tmp_path: Path
) -> None:
    deployable(tmp_path / "hello")
    path = "/v1/functions/hello"
    scripted_gateway.on("PUT", path, Answer(202, version(1, "building")))
    building = Answer(200, version(1, "building"))
    scripted_gateway.on("GET", f"{path}/versions/1", building, building, Answer(200, version(1)))
    result = hearth("deploy", "hello", "--memory", "256", "-e", "A=b=c", "--timeout", "2.5")
    assert result.exit_code == 0, result.stderr
    assert "hello:1 answers" in result.stderr
    body = scripted_gateway.asked[0].body
    assert json.loads(part(body, "config")) == {
        "runtime": "python",
        "memory_mb": 256,
        "timeout_s": 2.5,
        "env": {"A": "b=c"},
    }
    assert part(body, "archive")[:2] == b"\x1f\x8b"
    assert [asked.method for asked in scripted_gateway.asked] == ["PUT", "GET", "GET", "GET"]


def test_deploy_without_waiting_returns_at_once(
    hearth: Hearth, scripted_gateway: ScriptedGateway, tmp_path: Path
) -> None:
    deployable(tmp_path / "hello")
    scripted_gateway.on("PUT", "/v1/functions/hello", Answer(202, version(1, "building")))
    result = hearth("deploy", "hello", "--no-wait", "--json")
    assert json.loads(result.stdout)["status"] == "building"
    assert len(scripted_gateway.asked) == 1


def test_a_failed_build_shows_the_end_of_its_log(
    hearth: Hearth, scripted_gateway: ScriptedGateway, tmp_path: Path
) -> None:
    deployable(tmp_path / "hello")
    path = "/v1/functions/hello"
    failed = version(1, "failed", error="pip exit status 1")
    scripted_gateway.on("PUT", path, Answer(202, version(1, "building")))
    scripted_gateway.on("GET", f"{path}/versions/1", Answer(200, failed))
    log = b"installing\n[red]no such package[/]\n"
    scripted_gateway.on("GET", f"{path}/versions/1/build-log", Answer(200, log))
    result = hearth("deploy", "hello")
    assert result.exit_code == 1
    assert "[red]no such package[/]" in result.stderr
    assert "hello:1 was not built: pip exit status 1" in result.stderr
    assert "what was deployed before still answers" in result.stderr


def test_deploy_if_changed_uploads_nothing_when_the_digest_is_the_same(
    hearth: Hearth, scripted_gateway: ScriptedGateway, tmp_path: Path
) -> None:
    from cli.project import open_project, open_upload

    folder = deployable(tmp_path / "hello")
    with (upload := open_upload(open_project(folder, name=None, runtime=None))).file:
        archive = {"sha256": upload.digest, "bytes": upload.size}
    listed = "/v1/functions/hello/versions"
    scripted_gateway.on("GET", listed, page(version(4, archive=archive)))
    result = hearth("deploy", "hello", "--if-changed", "--json")
    assert json.loads(result.stdout)["unchanged"] is True
    assert [asked.method for asked in scripted_gateway.asked] == ["GET"]
    # A failed version of the same code is tried again.
    scripted_gateway.on("GET", listed, page(version(4, "failed", archive=archive)))
    scripted_gateway.on("PUT", "/v1/functions/hello", Answer(202, version(5)))
    assert json.loads(hearth("deploy", "hello", "--if-changed", "--json").stdout)["version"] == 5


def test_a_single_file_is_sent_under_its_own_name(
    hearth: Hearth, scripted_gateway: ScriptedGateway, tmp_path: Path
) -> None:
    (tmp_path / "My_Tool.mjs").write_text("export const handler = () => 1\n")
    scripted_gateway.on("PUT", "/v1/functions/my-tool", Answer(202, version(1)))
    assert hearth("deploy", "My_Tool.mjs").exit_code == 0
    body = scripted_gateway.asked[0].body
    assert b'filename="My_Tool.mjs"' in body
    assert json.loads(part(body, "config")) == {"runtime": "node"}


# --- changing ---


def test_delete_wants_to_hear_yes(hearth: Hearth, scripted_gateway: ScriptedGateway) -> None:
    scripted_gateway.on("GET", "/v1/functions/hello", Answer(200, {"name": "hello"}))
    scripted_gateway.on("DELETE", "/v1/functions/hello", Answer(204, b""))
    result = hearth("delete", "hello")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert hearth("delete", "hello", "--yes").exit_code == 0
    assert [asked.method for asked in scripted_gateway.asked] == ["GET", "DELETE"]


def test_rollback_and_aliases_say_which_version_answers(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    path = "/v1/functions/hello"
    latest = {"name": "latest", "version": 3, "weights": {}}
    scripted_gateway.on("POST", f"{path}/rollback", Answer(200, latest))
    assert "hello:latest is version 3" in hearth("rollback", "hello").stderr
    prod = {"name": "prod", "version": 3, "weights": {"4": 0.1}}
    scripted_gateway.on("PUT", f"{path}/aliases/prod", Answer(200, prod))
    assert "10% to 4" in hearth("alias", "set", "hello", "prod", "3", "--split", "4=0.1").stderr
    assert json.loads(scripted_gateway.asked[-1].body) == {"version": 3, "weights": {"4": 0.1}}


def test_a_new_key_stands_alone_on_stdout(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    scripted_gateway.on("POST", "/v1/keys", Answer(201, {"id": "key_1", "key": "hk_new"}))
    result = hearth("keys", "create", "ci", "--role", "deployer", "--function", "hello")
    assert result.stdout == "hk_new\n"
    asked = json.loads(scripted_gateway.asked[0].body)
    assert asked == {"name": "ci", "role": "deployer", "functions": ["hello"]}
