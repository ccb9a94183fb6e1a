"""Functions that fail, flood, crash, hang and reach out: each a typed error that harms nobody."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.limits import LOG_INVOCATION_BYTES_MAX
from tests.fixtures.api import deploy, invoke, logged, refused, seats, until
from tests.fixtures.platform import Platform

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

FINE = "if event == 'fine':\n        return 'fine'\n    "


@pytest.fixture
def anonymous(platform: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=platform.url, timeout=60) as client:
        yield client


def handler(body: str) -> str:
    """A handler that answers "fine" when asked to, and else does this."""
    lines = body.replace("\n", "\n    ")
    return f"import os, sys, time\ndef handler(event, context):\n    {FINE}{lines}\n"


def is_fine(client: httpx.Client, name: str) -> bool:
    """Whether the function answers the next call."""
    return bool(invoke(client, name, "fine").json() == "fine")


def processes_of(platform: Platform) -> int:
    """Processes in the sandbox that has most of them: each has a user id of its own, from where the
    platform was told on."""
    first = int(platform.env["HEARTH_UID_BASE"])
    found: Counter[int] = Counter()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found[folder.stat().st_uid] += 1
            except OSError:
                continue
    return max((n for uid, n in found.items() if first <= uid < first + 10_000), default=0)


# --- errors of the function's own ---


def test_what_raises_tells_its_owner_where_and_a_stranger_nothing(
    client: httpx.Client, anonymous: httpx.Client
) -> None:
    deploy(client, "raises", handler("raise ValueError('no gold')"), auth="none")
    for answer in (invoke(client, "raises"), client.get("/function/raises")):
        error = refused(answer, 502, "function_error")
        assert (error["type"], error["message"]) == ("ValueError", "no gold")
        assert any("line 5" in line for line in error["trace"])
        assert answer.headers["x-hearth-version"] == "1"
    for answer in (invoke(anonymous, "raises"), anonymous.get("/function/raises")):
        error = refused(answer, 502, "function_error")
        assert "gold" not in answer.text
        assert not {"type", "trace"} & error.keys()
    told = [line for line in logged(client, "raises") if "ValueError: no gold" in line["text"]]
    assert (len(told), {line["stream"] for line in told}) == (4, {"platform"})
    assert len({line["invocation_id"] for line in told}) == 4
    assert is_fine(client, "raises")
    assert invoke(client, "raises", "fine").headers["x-cold-start"] == "false"


@pytest.mark.parametrize(
    "body", ["return {1, 2}", "return object()", "return float('nan')", "return b'x'"]
)
def test_what_is_no_json_is_no_answer(client: httpx.Client, body: str) -> None:
    deploy(client, "no-json", handler(body))
    error = refused(invoke(client, "no-json"), 502, "function_response_invalid")
    assert error["type"]
    assert is_fine(client, "no-json")


def test_an_answer_over_the_limit_is_no_answer(platform: Platform, client: httpx.Client) -> None:
    most = platform.settings.payload_bytes_max
    deploy(client, "too-big", handler("return 'x' * (event - 2)"))
    fits = invoke(client, "too-big", most)
    assert (fits.status_code, len(fits.content)) == (200, most)
    refused(invoke(client, "too-big", most + 1), 502, "function_response_invalid")
    assert is_fine(client, "too-big")


# --- floods and binary output ---


def test_a_flood_of_output_is_cut_and_its_call_answered(
    platform: Platform, client: httpx.Client
) -> None:
    code = "for _ in range(1600):\n    print('x' * 65535)\nreturn 'printed'"
    deploy(client, "flood", handler(code), timeout_s=120)
    assert invoke(client, "flood").json() == "printed"
    until(lambda: logged(client, "flood"), "nothing was kept")
    lines = logged(client, "flood")
    kept = sum(len(line["text"]) for line in lines if line["stream"] == "stdout")
    assert 0 < kept <= LOG_INVOCATION_BYTES_MAX + 65536
    told = [line["text"] for line in lines if line["stream"] == "platform"]
    assert len(told) == 1
    assert "bytes of log dropped" in told[0]
    size = sum(p.stat().st_size for p in (platform.settings.data_dir / "logs").rglob("*flood*/*"))
    assert size < 2 * 1024 * 1024
    assert is_fine(client, "flood")


def test_binary_output_is_shown_escaped_and_attributed(client: httpx.Client) -> None:
    body = (
        "os.write(1, bytes(range(256)) + b'\\n')\n"
        "print('plain ünï')\n"
        "sys.stderr.write('to stderr\\n')\n"
        "os.system('echo from a child')\n"
        "return 1"
    )
    deploy(client, "binary-out", handler(body))
    answer = invoke(client, "binary-out")
    assert answer.json() == 1
    lines = logged(client, "binary-out")
    text = "\n".join(line["text"] for line in lines)
    assert "\\x00\x01" in text
    assert "\\xff" in text
    assert {"plain ünï", "to stderr", "from a child"} <= {line["text"] for line in lines}
    assert {line["stream"] for line in lines} == {"stdout", "stderr"}
    assert {line["invocation_id"] for line in lines} == {answer.headers["x-hearth-invocation-id"]}


def test_closing_descriptors_1_and_2_harms_only_its_log(client: httpx.Client) -> None:
    deploy(client, "closes", handler("os.close(1)\nos.close(2)\nreturn 'closed'"))
    assert invoke(client, "closes").json() == "closed"
    assert is_fine(client, "closes")


# --- crashes and limits ---


def test_a_crash_costs_its_own_call_and_its_last_words_are_kept(client: httpx.Client) -> None:
    body = "print('last words', flush=True)\nos._exit(7)"
    deploy(client, "crashes", handler(body))
    answer = invoke(client, "crashes")
    refused(answer, 502, "function_crashed")
    last = answer.headers["x-hearth-invocation-id"]
    said = [line for line in logged(client, "crashes") if line["invocation_id"] == last]
    texts = [line["text"] for line in said]
    assert texts == ["last words", "the function's process ended before it answered"]
    after = invoke(client, "crashes", "fine")
    assert (after.json(), after.headers["x-cold-start"]) == ("fine", "true")


@pytest.mark.parametrize("runtime", ["python", "node"])
def test_out_of_memory_says_so_and_names_the_limit(client: httpx.Client, runtime: str) -> None:
    name = f"oom-{runtime}"
    node = (
        "export const handler = async (e) => { if (e === 'fine') return e;"
        " const kept = []; for (;;) kept.push(Buffer.alloc(1 << 20, 1)); };"
    )
    code = handler("x = [bytearray(b'x') * 2**20 for _ in range(10**5)]")
    deploy(client, name, code if runtime == "python" else node, runtime=runtime, memory_mb=96)
    error = refused(invoke(client, name), 502, "function_out_of_memory")
    assert error["memory_mb"] == 96
    assert error["message"] in [line["text"] for line in logged(client, name)]
    assert is_fine(client, name)


def test_a_fork_bomb_stays_in_its_sandbox_and_ends_with_it(
    platform: Platform, client: httpx.Client
) -> None:
    deploy(client, "bystander", handler("return 'never'"))
    assert is_fine(client, "bystander")
    bomb = "while True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(0.01)"
    deploy(client, "forks", handler(bomb), timeout_s=4, cpus=0.5, memory_mb=512)
    seen: list[httpx.Response] = []
    with platform.client() as own:
        thread = threading.Thread(target=lambda: seen.append(invoke(own, "forks")))
        thread.start()
        until(lambda: processes_of(platform) > 100, "it never forked")
        assert processes_of(platform) < 400
        assert is_fine(client, "bystander")
        thread.join()
    refused(seen[0], 504, "function_timeout")
    until(lambda: processes_of(platform) < 50, "the forked outlive their sandbox")
    assert is_fine(client, "forks")


def test_a_full_tmp_is_the_functions_own_error_and_goes_with_its_sandbox(
    client: httpx.Client,
) -> None:
    body = "with open('/tmp/fill', 'wb') as f:\n    while True: f.write(bytes(2**20))"
    deploy(client, "fills", handler(body), memory_mb=256)
    error = refused(invoke(client, "fills"), 502, "function_error")
    assert (error["type"], "No space left" in error["message"]) == ("OSError", True)
    assert is_fine(client, "fills")


@pytest.mark.parametrize(
    "body", ["time.sleep(60)", "while True: pass", "import signal\nsignal.pause()"]
)
def test_what_never_returns_is_stopped_at_its_timeout(
    platform: Platform, client: httpx.Client, body: str
) -> None:
    before = seats(platform.settings)
    deploy(client, "hangs", handler(body), timeout_s=0.5)
    started = time.monotonic()
    error = refused(invoke(client, "hangs"), 504, "function_timeout")
    assert time.monotonic() - started >= 0.5
    assert error["timeout_s"] == 0.5
    assert is_fine(client, "hangs")
    assert any("longer than its timeout" in line["text"] for line in logged(client, "hangs"))
    client.delete("/v1/functions/hangs")
    until(lambda: seats(platform.settings) == before, "a hung sandbox stays")


# --- walls ---


def test_the_network_is_away(platform: Platform, client: httpx.Client) -> None:
    body = (
        "import socket\nsaid = []\n"
        f"places = ('127.0.0.1', {platform.settings.port}), ('10.0.0.1', 80), ('9.9.9.9', 53)\n"
        "for place in places:\n"
        "    try:\n        socket.create_connection(place, 5).close()\n        said.append('in')\n"
        "    except OSError as error:\n        said.append(type(error).__name__)\n"
        "try:\n    socket.getaddrinfo('example.com', 80)\n    said.append('resolved')\n"
        "except OSError as error:\n    said.append(type(error).__name__)\n"
        "return said + sorted(os.listdir('/sys/class/net'))"
    )
    deploy(client, "reaches", handler(body), timeout_s=20)
    said = invoke(client, "reaches").json()
    assert said == ["ConnectionRefusedError", "OSError", "OSError", "gaierror", "lo"]


def test_code_root_and_other_sandboxes_are_out_of_reach(client: httpx.Client) -> None:
    body = """
said = {}
places = '/var/task/new /var/task/main.py /etc/passwd /usr/x /run/hearth/x /proc/sysrq-trigger'
for place in places.split():
    try:
        open(place, 'a').close()
        said[place] = 'written'
    except OSError as error:
        said[place] = type(error).__name__
said['uid'] = [os.getuid() != 0, os.getgid() != 0, os.getgroups()]
status = open('/proc/self/status').read()
said['caps'] = [line.split()[1] for line in status.splitlines() if line.startswith('Cap')]
said['nnp'] = 'NoNewPrivs:\\t1' in status
said['seen'] = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())[:1]
said['tmp'] = os.listdir('/tmp')
return said
"""
    deploy(client, "writes", handler(body.strip()))
    said = invoke(client, "writes").json()
    places = {place: what for place, what in said.items() if place.startswith("/")}
    assert set(places.values()) <= {"OSError", "PermissionError", "FileNotFoundError"}, places
    assert said["uid"][:2] == [True, True]
    assert set(said["uid"][2]) <= {said["uid"][2][0]} if said["uid"][2] else True
    assert set(said["caps"]) == {"0" * 16}
    assert said["nnp"] is True
    assert said["seen"] == [1]
    assert said["tmp"] == []


def test_environment_holds_the_functions_own_and_no_secret_of_ours(
    platform: Platform, client: httpx.Client
) -> None:
    deploy(client, "environ", handler("return dict(os.environ)"), env={"MINE": "yes"})
    environ = invoke(client, "environ").json()
    assert (environ["MINE"], environ["AWS_LAMBDA_FUNCTION_NAME"]) == ("yes", "environ")
    told = str(environ)
    assert platform.key not in told
    assert str(platform.settings.data_dir) not in told
    ours = {name for name in environ if name.startswith("HEARTH_")}
    assert ours <= {"HEARTH_NAMESPACE"}
    assert os.environ.get("PATH") is not None
