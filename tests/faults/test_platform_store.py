"""A platform whose objects are in an S3 that goes away, and one whose disk is full."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.limits import MIB
from tests.fixtures.api import (
    ECHO,
    away,
    connected,
    deploy,
    exists,
    head,
    invoke,
    kill,
    leaving_nothing,
    objects,
    packed,
    passing,
    put,
    put_code,
    read_all,
    ready,
    refused,
    until,
)
from tests.fixtures.platform import Platform, make_platform, start, stop
from tests.fixtures.s3 import BUCKET, S3Server

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

ARCHIVE_BYTES_MAX = 1 * MIB


@pytest.fixture(scope="module")
def remote(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform on S3 that takes small archives only and keeps no stems."""
    variables = s3_server.environment() | {
        "HEARTH_ARCHIVE_BYTES_MAX": str(ARCHIVE_BYTES_MAX),
        "HEARTH_STEMS": "0",
    }
    made = make_platform(tmp_path_factory.mktemp("remote") / "data", **variables)
    start(made)
    yield made
    stop(made)


@pytest.fixture
def client(remote: Platform) -> Iterator[httpx.Client]:
    """Its client."""
    with leaving_nothing(remote) as client:
        yield client


def test_without_s3_deploys_are_refused_by_name_and_it_heals(
    remote: Platform, s3_server: S3Server, client: httpx.Client
) -> None:
    deploy(client, "warm", ECHO)
    deploy(client, "cold", ECHO)
    bucket = s3_server.file_of("functions")
    kept = {str(path) for path in bucket.rglob("*")}
    assert len([path for path in bucket.rglob("*") if path.is_file()]) == 2
    s3_server.stop()
    try:
        for name in ("unborn", "warm"):
            answer = put_code(client, name, ECHO + "# other\n")
            assert refused(answer, 503, "part_away")["part"] == "object store"
        assert invoke(client, "warm", 1).json() == 1
        until(lambda: away(remote) == "object store", "/readyz does not name it")
        gone = client.get("/v1/functions/warm/versions/1/archive")
        assert refused(gone, 503, "part_away")["part"] == "object store"
        # A new gateway has what it once unpacked: cold functions start without S3.
        before = kill(remote, "gateway")
        until(lambda: remote.running.children.get("gateway") not in (None, before), "no gateway")
        until(lambda: answers(remote), "the new gateway does not serve")
        assert invoke(client, "cold", 2).json() == 2
    finally:
        s3_server.start()
    until(lambda: ready(remote), "it does not heal")
    assert not exists(client, "unborn")
    assert {str(path) for path in bucket.rglob("*")} == kept
    assert passing(remote.settings) == []
    assert deploy(client, "warm", ECHO + "# newer\n")["version"] == 2
    assert BUCKET in str(bucket)


def answers(platform: Platform) -> bool:
    """Whether the gateway's process serves."""
    try:
        return httpx.get(f"{platform.url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_an_archive_of_untold_size_is_refused_before_it_was_all_sent(
    remote: Platform, client: httpx.Client
) -> None:
    form = "content-type: multipart/form-data; boundary=x"
    part = b'--x\r\ncontent-disposition: form-data; name="archive"; filename="a"\r\n\r\n'
    with connected(remote) as sock:
        top = head(remote, "PUT", "/v1/functions/endless", form, "transfer-encoding: chunked")
        body = part + bytes(ARCHIVE_BYTES_MAX + 512 * 1024)
        sock.sendall(top + b"%x\r\n" % len(body) + body + b"\r\n")  # and no end
        status, headers, answer = read_all(sock)
    assert (status, headers["connection"]) == (413, "close")
    assert json.loads(answer)["error"]["code"] == "archive_too_large"
    told = put(client, "endless", bytes(ARCHIVE_BYTES_MAX + 1))
    assert refused(told, 413, "archive_too_large")["limit"] == ARCHIVE_BYTES_MAX
    most = packed({"main.py": ECHO, "pad": os.urandom(ARCHIVE_BYTES_MAX - 8192)})
    assert put(client, "endless", most).status_code == 201
    assert passing(remote.settings) == []


# --- a full disk ---

DISK_BYTES = 96 * MIB


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Platform]:
    """A platform on a small disk of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = make_platform(disk / "data")
    size = f"size={DISK_BYTES},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "hearth-test", disk], check=True)
    try:
        start(made)
        yield made
        stop(made)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes of the disk free."""
    padding = disk / "padding"
    status = os.statvfs(disk)
    with padding.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - left)
    return padding


@pytest.mark.parametrize("left", [64 * 1024, 3 * MIB, 5 * MIB], ids=["upload", "store", "build"])
def test_a_full_disk_refuses_deploys_by_name_and_heals(small: Platform, left: int) -> None:
    archive = packed({"main.py": ECHO, "pad": os.urandom(2 * MIB)})
    with leaving_nothing(small) as client:
        deploy(client, "steady", ECHO)
        kept = objects(small.settings)
        padding = fill(small.settings.data_dir.parent, left)
        answer = put(client, "unborn", archive)
        told = answer.json()
        assert "error" in told, told
        code = told["error"]["code"]
        if code == "build_failed":  # it was stored, and there was no room to unpack it
            assert "no room" in refused(answer, 422, code)["message"]
        else:
            assert refused(answer, 503, "disk_full")["request_id"]
            assert not exists(client, "unborn")
            assert objects(small.settings) == kept
        assert passing(small.settings) == []
        assert invoke(client, "steady", 1).json() == 1
        padding.unlink()
        healed = put(client, "unborn", archive)
        assert healed.status_code in (200, 201), healed.text
        assert invoke(client, "unborn", 2).json() == 2
