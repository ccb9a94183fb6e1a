"""No call, whatever it does, reaches another; what is no artifact or no frame ends one seat."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conformance import hosted_client, modules, wire_client
from tests.conformance.hosted_client import Host, Seat
from tests.conformance.wasm.conftest import Opening, deadline_call
from tests.conformance.wire_client import ERROR, INIT_ERROR, frame


@pytest.mark.parametrize("event", [{"do": "spin"}, {"do": "sleep", "ms": 60_000}])
def test_a_call_ends_at_its_deadline_while_others_are_answered(
    cases: Seat, another: Opening, event: object
) -> None:
    busy = another()
    began = time.monotonic()
    deadline_call(busy, event, 300)
    answered = 0
    while time.monotonic() - began < 0.2:
        assert cases.call({"do": "echo", "value": answered}).result == answered
        answered += 1
    assert answered > 1
    answer = busy.receive()
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert busy.call({"do": "echo", "value": 1}).result == 1


@pytest.mark.parametrize(
    "event", [{"do": "spin"}, {"do": "sleep", "ms": 60_000}, {"do": "flood", "mb": 64}]
)
def test_hanging_up_ends_the_call(cases: Seat, another: Opening, event: object, host: Host) -> None:
    seats = [another() for _ in range(3)]
    for seat in seats:
        deadline_call(seat, event, 60_000)
    assert cases.call({"do": "echo", "value": 1}).result == 1
    threads = running_threads(host)
    for seat in seats:
        seat.wire.close()
    deadline = time.monotonic() + wire_client.PATIENCE_S
    while busy_threads(host) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not busy_threads(host), threads
    assert cases.call({"do": "echo", "value": 2}).result == 2


def test_a_flood_of_lines_waits_for_its_reader_and_for_nobody_else(
    cases: Seat, another: Opening
) -> None:
    flooding = another()
    deadline_call(flooding, {"do": "flood", "mb": 2}, 60_000)
    for number in range(50):  # meanwhile nobody reads the other's pipe
        assert cases.call({"do": "echo", "value": number}).result == number
    assert flooding.receive().result == "flooded"
    assert len(flooding.output(2)) == 2 << 20


def test_many_seats_sleep_side_by_side(cases: Seat, another: Opening) -> None:
    seats = [another() for _ in range(60)]
    began = time.monotonic()
    for seat in seats:
        deadline_call(seat, {"do": "sleep", "ms": 1000}, 60_000)
    assert cases.call({"do": "echo", "value": 1}).result == 1
    assert {seat.receive().result for seat in seats} == {"slept"}
    assert time.monotonic() - began < 30  # one after another they would take 60


def test_more_endless_calls_than_threads_all_end_and_the_host_lives(
    cases: Seat, another: Opening
) -> None:
    seats = [another() for _ in range(230)]
    for seat in seats:
        deadline_call(seat, {"do": "sleep", "ms": 60_000}, 3_000)
    for seat in seats:
        assert seat.receive().kind == ERROR
    assert cases.call({"do": "echo", "value": 1}).result == 1


# --- what is no artifact


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"module.json": b'{"engine": "wasmtime-1"}'}, "ArtifactInvalid"),
        ({"module.json": b"no"}, "ArtifactInvalid"),
        ({"module.json": b"[]"}, "ArtifactInvalid"),
        ({"module.cwasm": b"\0asm\x01\0\0\0"}, "ArtifactInvalid"),
        ({"module.cwasm": b""}, "ArtifactInvalid"),
    ],
)
def test_what_is_no_artifact_of_this_engine_is_refused(
    host: Host, changes: dict[str, bytes], kind: str
) -> None:
    with host.open(modules.cases() | changes) as seat:
        answer = seat.init("_start")
        assert (answer.kind, answer.head["type"]) == (INIT_ERROR, kind), answer


def test_a_seat_without_an_artifact_is_refused(host: Host) -> None:
    with host.open({}) as seat:
        assert seat.init("_start").head["type"] == "ArtifactMissing"


# --- the wire


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\xff" * 64,
        frame(wire_client.CALL, 1, {}, b""),
        frame(77, 0, {}),
        frame(wire_client.INIT, 0, {"handler": 1}),
    ],
)
def test_whoever_breaks_the_protocol_loses_this_seat_only(
    host: Host, cases: Seat, bytes_sent: bytes
) -> None:
    with host.open(modules.cases()) as seat:
        seat.send(bytes_sent)
        with pytest.raises(wire_client.WireEnded):
            seat.receive()
    assert cases.call({"do": "echo", "value": 1}).result == 1


def test_frames_arrive_byte_by_byte(another: Opening) -> None:
    seat = another()
    seat.send_torn(seat.call_frame("event", b'{"do":"echo","value":7}'))
    assert seat.receive().result == 7


def test_a_cancelled_call_is_answered_once(cases: Seat, another: Opening) -> None:
    seat = another()
    deadline_call(seat, {"do": "spin"}, 60_000)
    assert cases.call({"do": "echo", "value": 1}).result == 1
    seat.cancel(seat.calls)
    assert seat.receive().kind == ERROR
    seat.cancel(seat.calls)  # means nothing
    assert seat.call({"do": "echo", "value": 2}).result == 2


def test_the_end_of_the_control_connection_ends_the_host(tmp_path: Path) -> None:
    with hosted_client.make(tmp_path) as started, started.open(modules.cases()) as seat:
        seat.ready()
        deadline_call(seat, {"do": "spin"}, 60_000)
        started.wire.close()
        assert started.exit_status() == 0


def running_threads(host: Host) -> list[str]:
    """The state of every thread of the host's process."""
    first_process = host_process(host)
    tasks = Path(f"/proc/{first_process}/task")
    return [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()]


def busy_threads(host: Host) -> int:
    """How many of them compute, twice in a row."""
    return min(running_threads(host).count("R") for _ in range(3))


def host_process(host: Host) -> int:
    """Its process id here."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
            environment = (path.parent / "environ").read_bytes()
        except OSError:
            continue
        is_host = b"/opt/hearth/host.py" in command and b"podman" not in command.split(b"\0")[0]
        if is_host and f"HOST={host.name}".encode() in environment:
            return int(path.parent.name)
    raise AssertionError("the host has no process")
