"""The command line and a whole platform: the way of a user from nothing to an answer and back."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from cli.showcase import EXAMPLES, find_examples, missing_settings
from tests.fixtures.api import leaving_nothing
from tests.fixtures.platform import HEARTH, Platform, make_platform, start, stop

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

PATIENCE_S = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a fact of another process."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(platform: Platform) -> Iterator[None]:
    """What these tests deploy on the session's platform is gone before others use it."""
    with leaving_nothing(platform):
        yield


# --- a user's way ---


@pytest.mark.parametrize("runtime", ["python", "node"])
def test_init_deploy_invoke_logs_delete(platform: Platform, tmp_path: Path, runtime: str) -> None:
    name = f"first-{runtime}"
    assert platform.hearth("init", name, "--runtime", runtime, cwd=tmp_path).status == 0
    deployed = platform.hearth("deploy", name, "--json", cwd=tmp_path)
    assert deployed.status == 0, deployed.stderr
    assert (deployed.json()["version"], deployed.json()["status"]) == (1, "active")

    invoked = platform.hearth("invoke", name, "--data", '{"name": "Ada"}')
    assert invoked.status == 0, invoked.stderr
    assert json.loads(invoked.stdout) == {"message": "Hello, Ada!"}
    over_http = platform.hearth("invoke", name, "--path", "/?name=Grace", "--json").json()
    assert over_http["result"] == {"message": "Hello, Grace!"}
    piped = platform.hearth("invoke", name, stdin=b'{"name": "Alan"}')
    assert json.loads(piped.stdout) == {"message": "Hello, Alan!"}

    logged = platform.hearth("logs", name, "--json").stdout.splitlines()
    texts = [json.loads(line)["text"] for line in logged]
    assert [text.split(",")[0] for text in texts] == [
        "greeting Ada",
        "greeting Grace",
        "greeting Alan",
    ]
    assert name in platform.hearth("list").stdout
    assert platform.hearth("delete", name, "--yes").status == 0
    assert platform.hearth("describe", name).status == 3


def test_a_new_version_an_alias_and_the_way_back(platform: Platform, tmp_path: Path) -> None:
    file = tmp_path / "versions.py"

    def deploy(answer: int) -> None:
        file.write_text(f"def handler(event, context):\n    return {answer}\n")
        assert platform.hearth("deploy", str(file)).status == 0

    deploy(1)
    assert platform.hearth("alias", "set", "versions", "prod", "1").status == 0
    deploy(2)
    assert platform.hearth("invoke", "versions").stdout == "2"
    assert platform.hearth("invoke", "versions:prod").stdout == "1"
    assert platform.hearth("rollback", "versions").status == 0
    assert platform.hearth("invoke", "versions").stdout == "1"
    listed = platform.hearth("versions", "versions", "--json").json()["versions"]
    assert [version["version"] for version in listed] == [2, 1]


def test_a_deploy_that_cannot_work_says_why_and_changes_nothing(
    platform: Platform, tmp_path: Path
) -> None:
    file = tmp_path / "broken.py"
    file.write_text("def handler(event, context):\n    return 'fine'\n")
    assert platform.hearth("deploy", str(file)).status == 0
    file.write_text("def handler(event, context:\n")
    failed = platform.hearth("deploy", str(file))
    assert failed.status == 1
    assert "SyntaxError" in failed.stderr
    assert "what was deployed before still answers" in failed.stderr
    assert platform.hearth("invoke", "broken").stdout == '"fine"'


def test_the_functions_own_error_is_told_with_its_trace(platform: Platform, tmp_path: Path) -> None:
    file = tmp_path / "raises.py"
    file.write_text("def handler(event, context):\n    raise ValueError('no gold')\n")
    assert platform.hearth("deploy", str(file)).status == 0
    failed = platform.hearth("invoke", "raises")
    assert failed.status == 1
    assert "ValueError: no gold" in failed.stderr
    assert "line 2" in failed.stderr


def test_a_module_of_webassembly_alone_is_a_function(platform: Platform) -> None:
    module = EXAMPLES / "wasm-wat" / "main.wasm"
    deployed = platform.hearth("deploy", str(module), "--name", "module")
    assert deployed.status == 0, deployed.stderr
    assert platform.hearth("invoke", "module", "--data", '{"a": 1}').stdout == '{"a": 1}'


# --- the examples, as they stand ---


@pytest.mark.parametrize("name", [path.name for path in find_examples()])
def test_an_example_deploys_as_it_stands_and_answers_what_it_promises(
    platform: Platform, name: str
) -> None:
    from cli.client import Client
    from cli.connection import Connection
    from cli.showcase import check, read_steps

    if needs := missing_settings(EXAMPLES / name):
        pytest.skip(f"{name} is compiled where one of these is set: {', '.join(needs)}")
    deployed = platform.hearth("deploy", str(EXAMPLES / name))
    assert deployed.status == 0, deployed.stderr
    connection = Connection(platform.url, platform.key, "", platform.settings.data_dir)
    with Client(connection) as client:
        for step in read_steps(EXAMPLES / name, name):
            asked = step.request
            answer = client.invoke(asked.method, asked.path, body=asked.body, headers=asked.headers)
            check(answer, step, connection)
    again = platform.hearth("deploy", str(EXAMPLES / name), "--if-changed", "--json")
    assert again.json()["unchanged"] is True


def test_the_thumbnail_is_small_upright_and_refuses_what_is_no_image(
    platform: Platform, tmp_path: Path
) -> None:
    assert platform.hearth("deploy", str(EXAMPLES / "thumbnail")).status == 0
    photo, small = tmp_path / "photo.jpg", tmp_path / "small.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the way phones write portraits
    Image.new("RGB", (800, 400), "red").save(photo, exif=exif)
    done = platform.hearth("invoke", "thumbnail", "--file", str(photo), "--output", str(small))
    assert done.status == 0, done.stderr
    with Image.open(small) as image:
        assert (image.format, image.size) == ("JPEG", (200, 400))
    with platform.client() as client:
        refused = {
            body: client.post("/function/thumbnail", content=body).status_code
            for body in (b"", b"not an image", photo.read_bytes()[:300])
        }
        assert list(refused.values()) == [400, 415, 422]
        assert client.get("/function/thumbnail").status_code == 405
        bomb = io.BytesIO()
        Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
        assert client.post("/function/thumbnail", content=bomb.getvalue()).status_code == 413


def test_orders_can_be_made_read_changed_and_deleted(platform: Platform) -> None:
    assert platform.hearth("deploy", str(EXAMPLES / "orders-api")).status == 0
    with platform.client() as client:
        api = "/function/orders-api/orders"
        made = client.post(api, json={"item": "firewood", "quantity": 2})
        assert made.status_code == 201
        place = made.headers["location"]
        assert client.get(place).json()["item"] == "firewood"
        assert client.patch(place, json={"status": "paid"}).json()["status"] == "paid"
        paid = client.get(api, params={"status": "paid"}).json()["orders"]
        assert made.json()["id"] in [order["id"] for order in paid]
        gone = client.delete(place)
        assert (gone.status_code, gone.content) == (204, b"")
        assert client.get(place).status_code == 404
        wrong = client.put(api)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, POST")
        assert client.post(api, content=b"{").status_code == 400
        assert client.post(api, json={"item": "x", "quantity": 0}).status_code == 422


# --- the life of a platform ---


def test_a_second_up_says_that_it_runs_already(platform: Platform) -> None:
    before = platform.running.pid
    again = platform.hearth("up", "--detach", "--json")
    assert again.status == 0
    assert again.json()["url"] == platform.url
    assert platform.running.pid == before
    in_front = platform.hearth("up")
    assert in_front.status == 3
    assert f"already runs here (pid {before})" in in_front.stderr


def test_a_second_platform_on_the_same_address_does_not_start(
    platform: Platform, tmp_path: Path
) -> None:
    other = make_platform(tmp_path / "data", HEARTH_ADDRESS=platform.settings.address)
    done = other.hearth("up", "--detach")
    assert done.status == 1
    assert f"{platform.settings.address} is taken by another program" in done.stderr
    assert other.leftovers() == []


def test_status_names_every_process_and_its_memory(platform: Platform) -> None:
    parts = platform.hearth("status", "--json").json()["processes"]
    assert set(parts) == {"supervisor", "redis", "podman", "guard", "gateway", "builder"}
    assert all(part["memory_mb"] > 0 for part in parts.values())


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Platform]:
    """A platform of the test's own, to be killed and stopped as it likes."""
    made = make_platform(tmp_path / "data")
    start(made)
    yield made
    stop(made)


def deploy_sleeper(platform: Platform, folder: Path) -> None:
    """A function that sleeps as long as it is told."""
    code = """
import time

def handler(event, context):
    print("asleep", flush=True)
    time.sleep(event["s"])
    return "slept"
"""
    (folder / "sleeper.py").write_text(code)
    assert platform.hearth("deploy", str(folder / "sleeper.py")).status == 0


def test_what_was_deployed_answers_after_down_and_up(own: Platform, tmp_path: Path) -> None:
    deploy_sleeper(own, tmp_path)
    key = own.key
    stop(own)
    start(own)
    assert own.key == key
    assert own.hearth("invoke", "sleeper", "--data", '{"s": 0}').stdout == '"slept"'


def test_down_lets_running_invocations_finish(own: Platform, tmp_path: Path) -> None:
    deploy_sleeper(own, tmp_path)
    command = [str(HEARTH), "invoke", "sleeper", "--data", '{"s": 3}']
    with subprocess.Popen(command, env=dict(own.env), stdout=subprocess.PIPE) as calling:
        with own.client() as client:
            logs = "/v1/functions/sleeper/logs"
            until(lambda: "asleep" in client.get(logs).text, "the call never began")
        stop(own)
        assert calling.communicate()[0] == b'"slept"'


def test_a_killed_gateway_comes_back_by_itself(own: Platform, tmp_path: Path) -> None:
    deploy_sleeper(own, tmp_path)
    before = own.running.children["gateway"]
    os.kill(before, signal.SIGKILL)
    until(lambda: own.running.children.get("gateway") not in (None, before), "no new gateway")
    call = ("invoke", "sleeper", "--data", '{"s": 0}')
    until(lambda: own.hearth(*call).status == 0, "it never answered again")


def test_nothing_is_left_when_the_supervisor_is_killed(own: Platform, tmp_path: Path) -> None:
    deploy_sleeper(own, tmp_path)
    assert own.hearth("invoke", "sleeper", "--data", '{"s": 0}').status == 0
    os.kill(own.running.pid, signal.SIGKILL)
    until(
        lambda: [line for line in own.leftovers() if not line.startswith("socket")] == [],
        "something outlived its supervisor",
    )
    start(own)
    assert own.hearth("invoke", "sleeper", "--data", '{"s": 0}').status == 0


def test_ctrl_c_in_the_foreground_leaves_nothing(tmp_path: Path) -> None:
    made = make_platform(tmp_path / "data")
    with subprocess.Popen(
        [str(HEARTH), "up"], env=dict(made.env), stderr=subprocess.STDOUT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        told = b""
        while b"--help shows the rest" not in told:
            piece = os.read(process.stdout.fileno(), 4096)
            assert piece, told.decode()
            told += piece
        deploy_sleeper(made, tmp_path)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read().decode()
        assert process.wait() == 0
    for name in ("builder", "gateway", "guard", "podman", "redis"):
        assert f"{name} stopped" in rest
    assert made.leftovers() == []
