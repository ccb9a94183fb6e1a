"""Programs of people's own on a whole platform: deployed by the command line, called over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.test_custom_clients import CURL_BOOTSTRAP
from tests.fixtures.platform import Platform

pytestmark = [pytest.mark.platform, pytest.mark.podman]


def test_a_shell_script_answers_streams_and_fails_over_http(
    platform: Platform, tmp_path: Path
) -> None:
    folder = tmp_path / "shell"
    folder.mkdir()
    (folder / "bootstrap").write_text(CURL_BOOTSTRAP)
    (folder / "bootstrap").chmod(0o755)
    done = platform.hearth("deploy", str(folder))  # the runtime is found out
    assert done.status == 0, done.stderr
    with platform.client() as client:
        answer = client.post("/v1/functions/shell/invocations", json={"a": [1, "é"]})
        assert (answer.status_code, answer.json()) == (200, {"a": [1, "é"]})
        assert answer.headers["x-hearth-runtime"] == "custom"
        event = client.get("/function/shell/a/b?x=1").json()
        assert (event["rawPath"], event["queryStringParameters"]) == ("/a/b", {"x": "1"})
        with client.stream("GET", "/function/shell?do=stream") as streamed:
            assert streamed.headers["content-type"] == "text/event-stream"
            assert streamed.read() == b"data: 1\ndata: 2\ndata: 3\n"
        failed = client.post("/v1/functions/shell/invocations", json="fail")
        assert failed.status_code == 502
        assert failed.json()["error"]["type"] == "App.Failed"


@pytest.mark.parametrize(
    ("runtime", "files", "says"),
    [
        ("custom", {"readme.txt": "x"}, "there is no bootstrap in the root of the code"),
        ("custom", {"bootstrap": "#!/bin/sh\nexit 3\n"}, "exited with status 3"),
        ("dart", {"main.dart": "x"}, "set HEARTH_DART_SDK or HEARTH_DART_BASE_IMAGE"),
    ],
)
def test_what_cannot_run_fails_its_deploy_and_says_why(
    platform: Platform, tmp_path: Path, runtime: str, files: dict[str, str], says: str
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    done = platform.hearth("deploy", str(folder), "--runtime", runtime)
    assert done.status == 1
    assert says in " ".join((done.stdout + done.stderr).split())


def test_inline_code_is_refused_for_a_program(platform: Platform) -> None:
    with platform.client() as client:
        answer = client.put(
            "/v1/functions/inline", json={"config": {"runtime": "custom"}, "code": "#!/bin/sh"}
        )
    assert answer.status_code == 422
    assert "needs an archive" in answer.json()["error"]["message"]
