"""Hostile uploads over HTTP: each a typed error, and not a byte, function or version left."""

from __future__ import annotations

import io
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.fixtures.api import (
    ECHO,
    connected,
    exists,
    head,
    objects,
    packed,
    passing,
    put,
    read_all,
    refused,
    until,
)
from tests.fixtures.archives import Z, pax, tar, tar_entry, tar_gz, zeros_gz, zip_file
from tests.fixtures.platform import Platform

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

Make = Callable[[Path], Path]
MAIN = tar_entry("main.py", ECHO.encode())
NAME = "hostile"


def tarred(*entries: bytes) -> Make:
    return lambda path: tar_gz(path, MAIN, *entries)


def zipped(*entries: Z) -> Make:
    return lambda path: zip_file(path, Z("main.py", ECHO.encode()), *entries)


def hundred_thousand_entries(path: Path) -> Path:
    return tar_gz(path, MAIN, *(tar_entry(f"f{number}") for number in range(100_000)))


def bomb(path: Path) -> Path:
    return zeros_gz(path, MAIN + tar_entry("zeros", size=2**32), 64)


def text(content: bytes) -> Make:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


SYMLINK = Z("out", b"../../etc/passwd", method=0, mode=stat.S_IFLNK | 0o777)
HOSTILE: dict[str, tuple[Make, int, str]] = {
    "not an archive": (text(b"this is no archive at all"), 422, ""),
    "empty": (text(b""), 422, ""),
    "truncated": (text(packed({"main.py": ECHO * 100})[:-30]), 422, ""),
    "plain tar cut short": (lambda path: tar(path, MAIN, end=b""), 422, ""),
    "traversal": (tarred(tar_entry("../../evil.py", b"x")), 422, "'..'"),
    "traversal in a zip": (zipped(Z("a/../../evil.py", b"x")), 422, "'..'"),
    "absolute path": (tarred(tar_entry("/etc/cron.d/evil", b"x")), 422, "absolute"),
    "symlink out": (tarred(tar_entry("out", kind=b"2", link="../../etc")), 422, "out"),
    "absolute symlink": (tarred(tar_entry("out", kind=b"2", link="/etc")), 422, "absolute"),
    "symlink out in a zip": (zipped(SYMLINK), 422, "out"),
    "hard link out": (tarred(tar_entry("out", kind=b"1", link="/etc/passwd")), 422, "out"),
    "device node": (tarred(tar_entry("sda", kind=b"4")), 422, "sda"),
    "named pipe": (tarred(tar_entry("pipe", kind=b"6")), 422, "pipe"),
    "setuid": (tarred(tar_entry("su", b"x", mode=0o4755)), 422, "setuid"),
    "name twice": (tarred(tar_entry("main.py", b"x")), 422, "main.py"),
    "name twice in a zip": (zipped(Z("main.py", b"x")), 422, "main.py"),
    "name not UTF-8": (tarred(tar_entry(b"caf\xe9.py", b"x")), 422, "UTF-8"),
    "pax name not UTF-8": (tarred(pax({"path": b"\xff\xfe"}), tar_entry("x")), 422, "UTF-8"),
    "a hundred thousand entries": (hundred_thousand_entries, 413, "20,000 entries"),
    "gzip bomb": (bomb, 413, ""),
    "zip bomb": (zipped(Z("zeros", bytes(40 * 1024**2))), 413, ""),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    platform: Platform, client: httpx.Client, tmp_path: Path, case: str
) -> None:
    make, status, says = HOSTILE[case]
    archive = make(tmp_path / "archive").read_bytes()
    kept = objects(platform.settings)
    code = "archive_invalid" if status == 422 else "archive_too_large"
    error = refused(put(client, NAME, archive), status, code)
    assert says in error["message"], error
    assert not exists(client, NAME)
    assert (passing(platform.settings), objects(platform.settings)) == ([], kept)
    assert not Path("/etc/cron.d/evil").exists()


def test_a_hostile_archive_for_a_function_that_exists_makes_no_version(
    platform: Platform, client: httpx.Client
) -> None:
    assert put(client, "unharmed", {"main.py": ECHO}).status_code == 201
    kept = objects(platform.settings)
    refused(put(client, "unharmed", b"nonsense"), 422, "archive_invalid")
    versions = client.get("/v1/functions/unharmed/versions").json()["items"]
    assert [version["version"] for version in versions] == [1]
    assert objects(platform.settings) == kept


def test_links_inside_the_tree_and_odd_but_honest_names_are_taken(client: httpx.Client) -> None:
    buffer = io.BytesIO()
    code = "import pathlib\ndef handler(e, c):\n    return pathlib.Path('línk.txt').read_text()\n"
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in (("main.py", code.encode()), ("data/ünï 1.txt", b"through")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("línk.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "data/ünï 1.txt"
        archive.addfile(link)
    assert put(client, "links", buffer.getvalue()).status_code == 201
    assert client.post("/v1/functions/links/invocations").json() == "through"


def test_an_archive_over_the_limit_is_answered_before_it_was_sent(
    platform: Platform, client: httpx.Client
) -> None:
    kept = objects(platform.settings)
    size = platform.settings.archive_bytes_max + 1024 * 1024
    form = "content-type: multipart/form-data; boundary=x"
    with connected(platform) as sock:
        length = f"content-length: {size}"
        sock.sendall(head(platform, "PUT", f"/v1/functions/{NAME}", form, length))
        # Not a byte of the body has been sent, and nothing tells the server that it will not be.
        status, headers, body = read_all(sock)
    assert (status, headers["connection"]) == (413, "close")
    assert b'"archive_too_large"' in body
    assert not exists(client, NAME)
    assert (passing(platform.settings), objects(platform.settings)) == ([], kept)


def test_a_client_that_leaves_in_the_middle_of_an_upload_leaves_nothing(
    platform: Platform, client: httpx.Client
) -> None:
    kept = objects(platform.settings)
    form = "content-type: multipart/form-data; boundary=x"
    part = b'--x\r\ncontent-disposition: form-data; name="archive"; filename="a.tar"\r\n\r\n'
    with connected(platform) as sock:
        target = f"/v1/functions/{NAME}?wait=true"
        sock.sendall(head(platform, "PUT", target, form, "content-length: 9000000") + part)
        sock.sendall(bytes(3_000_000))
        until(lambda: passing(platform.settings), "the upload never began")
    until(lambda: passing(platform.settings) == [], "half an upload stays")
    assert not exists(client, NAME)
    assert objects(platform.settings) == kept


def test_uploads_beyond_what_is_received_at_once_wait_their_turn(
    platform: Platform, client: httpx.Client
) -> None:
    answers: list[int] = []

    def upload(number: int) -> None:
        with platform.client() as own:
            answers.append(put(own, f"crowd-{number}", b"no archive").status_code)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [422] * 24
    assert passing(platform.settings) == []
