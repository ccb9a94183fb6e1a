"""The S3 store where S3 differs: credentials, buckets, parts, broken transfers, silence."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.errors import DigestMismatch, DiskFull, ObjectMissing, PartAway
from core.limits import MIB, S3_ATTEMPTS_MAX, S3_PART_BYTES
from core.settings import Settings
from storage import s3
from storage.s3 import S3Store
from storage.store import object_key
from tests.fixtures.s3 import KEY_ID, SECRET, S3Server

CONTENT = os.urandom(300_000)
KEY = object_key("fn_1", hashlib.sha256(CONTENT).hexdigest())


def local(port: int) -> Settings:
    return replace(
        Settings(),
        s3_endpoint=f"http://127.0.0.1:{port}",
        s3_bucket="objects",
        s3_key_id=KEY_ID,
        s3_secret=SECRET,
        s3_session_token="a-session-token",
        s3_region="auto",
        s3_path_style=True,
    )


class Scripted(ThreadingHTTPServer):
    """A server that misbehaves as told, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.breaks = 0  # how many GETs end in the middle
        self.status = 200
        self.body = b""


class _Answer(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"  # which also answers "Expect: 100-continue" at once

    def do_GET(self) -> None:
        self._note()
        if self.server.status != 200:
            self._send(self.server.status, self.server.body)
            return
        self.server.breaks -= 1
        self._send(200, CONTENT, cut=len(CONTENT) // 2 if self.server.breaks >= 0 else None)

    def do_HEAD(self) -> None:
        self._note()
        self._send(404 if self.server.status == 200 else self.server.status, b"")

    def do_PUT(self) -> None:
        self._note()
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.server.status, self.server.body)

    def log_message(self, format: str, *args: Any) -> None: ...

    def _note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers))

    def _send(self, status: int, body: bytes, *, cut: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if cut is not None:
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body[:cut])


@contextmanager
def scripted() -> Iterator[tuple[Scripted, S3Store]]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        store = S3Store(local(server.server_port))
        try:
            yield server, store
        finally:
            store.close()
            server.shutdown()
            thread.join()


def refusal(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>because</Message></Error>".encode()


def test_wrong_credentials_name_the_settings_to_check(s3_server: S3Server, tmp_path: Path) -> None:
    store = S3Store(replace(s3_server.settings(tmp_path), s3_secret="something else"))
    with pytest.raises(PartAway, match="HEARTH_S3_KEY_ID, HEARTH_S3_SECRET"):
        store.ping()
    with pytest.raises(PartAway, match="HEARTH_S3_SECRET"):
        list(store.keys(""))
    store.close()


def test_missing_bucket_names_the_setting_to_mend(s3_server: S3Server, tmp_path: Path) -> None:
    store = S3Store(replace(s3_server.settings(tmp_path), s3_bucket="elsewhere"))
    (tmp_path / "file").write_bytes(CONTENT)
    for attempt in (
        store.ping,
        lambda: store.exists(KEY),
        lambda: store.put(KEY, tmp_path / "file"),
        lambda: store.fetch(KEY, tmp_path / "to"),
        lambda: list(store.keys("")),
    ):
        with pytest.raises(PartAway, match="no such bucket: create it"):
            attempt()
    store.close()


@pytest.mark.parametrize("endpoint", ["not a url", "http://", "http://127.0.0.1:1"])
def test_endpoint_that_cannot_be_one_names_the_setting(endpoint: str) -> None:
    settings = replace(local(1), s3_endpoint=endpoint)
    with pytest.raises(PartAway, match="HEARTH_S3_ENDPOINT"):
        S3Store(settings).ping()


def test_large_object_is_sent_in_parts_and_a_small_one_at_once(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(s3_server.settings(tmp_path))
    sent: list[str] = []
    store._s3.meta.events.register("before-call.s3", lambda model, **_: sent.append(model.name))
    content = os.urandom(2 * S3_PART_BYTES + 5)
    for size in (S3_PART_BYTES, len(content)):
        (tmp_path / "file").write_bytes(content[:size])
        digest = hashlib.sha256(content[:size]).hexdigest()
        store.put(object_key("fn_parts", digest), tmp_path / "file")
    assert sent.count("PutObject") == 1
    assert sent.count("UploadPart") == 3
    assert sent.count("CompleteMultipartUpload") == 1
    store.close()


def test_upload_in_parts_that_fails_is_aborted(s3_server: S3Server, tmp_path: Path) -> None:
    store = S3Store(s3_server.settings(tmp_path))

    def fail(model: Any, params: dict[str, Any], **_: Any) -> None:
        if params["query_string"].get("partNumber") == 2:
            s3_server.stop()

    store._s3.meta.events.register("before-call.s3.UploadPart", fail)
    content = os.urandom(MIB) * 40
    (tmp_path / "file").write_bytes(content)
    key = object_key("fn_cut", hashlib.sha256(content).hexdigest())
    with pytest.raises(PartAway):
        store.put(key, tmp_path / "file")
    s3_server.start()
    assert not store.exists(key)
    store.close()


def test_transfer_that_breaks_off_is_begun_again(tmp_path: Path) -> None:
    with scripted() as (server, store):
        server.breaks = S3_ATTEMPTS_MAX - 1
        store.fetch(KEY, tmp_path / "to")
        assert (tmp_path / "to").read_bytes() == CONTENT
        assert len(server.asked) == S3_ATTEMPTS_MAX


def test_transfer_that_always_breaks_off_is_given_up(tmp_path: Path) -> None:
    with scripted() as (server, store):
        server.breaks = 1000
        with pytest.raises(PartAway):
            store.fetch(KEY, tmp_path / "to")
        assert len(server.asked) == S3_ATTEMPTS_MAX
    assert list(tmp_path.iterdir()) == []


def test_requests_are_bounded_when_the_store_fails_again_and_again(tmp_path: Path) -> None:
    with scripted() as (server, store):
        server.status, server.body = 503, refusal("SlowDown")
        with pytest.raises(PartAway, match="503 SlowDown"):
            store.fetch(KEY, tmp_path / "to")
        assert len(server.asked) == S3_ATTEMPTS_MAX
        server.asked.clear()
        with pytest.raises(PartAway):
            store.ping()
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (507, "XMinioStorageFull", DiskFull),
        (403, "QuotaExceeded", DiskFull),
        (400, "XAmzContentSHA256Mismatch", DigestMismatch),
        (400, "BadDigest", DigestMismatch),
        (403, "ExpiredToken", PartAway),
        (501, "NotImplemented", PartAway),
    ],
)
def test_what_s3_says_becomes_our_own_error(
    status: int,
    code: str,
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    with scripted() as (server, store):
        server.status, server.body = status, refusal(code)
        # A HEAD has no body to say a code in: only the PUT is answered with it.
        monkeypatch.setattr(store, "_size", lambda key: None)
        with pytest.raises(error):
            store.put(KEY, tmp_path / "file")


def test_object_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with scripted() as (server, store):
        server.status, server.body = 404, refusal("NoSuchKey")
        with pytest.raises(ObjectMissing):
            store.fetch(KEY, tmp_path / "to")


def test_put_signs_the_bytes_and_sends_token_region_and_path_style(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    with scripted() as (server, store):
        store.put(KEY, tmp_path / "file")
        method, path, headers = server.asked[-1]
    assert (method, path) == ("PUT", f"/objects/{KEY}")
    assert headers["x-amz-content-sha256"] == KEY[-64:]
    assert headers["x-amz-security-token"] == "a-session-token"
    assert "/auto/s3/aws4_request" in headers["authorization"]
    assert not [name for name in headers if "checksum" in name]  # some stores refuse those


def test_server_that_never_answers_is_away_after_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3, "S3_READ_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = S3Store(local(silent.getsockname()[1]))
        with pytest.raises(PartAway, match="timeout"):
            store.ping()
        store.close()
