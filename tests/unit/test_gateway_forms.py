"""The edge's pure parts: whom a proxy speaks for, and forms however they are cut."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ArchiveTooLarge, HearthError, PayloadTooLarge, RequestInvalid
from core.limits import CONFIG_BYTES_MAX
from core.settings import SettingsInvalid
from gateway.form import DeployForm
from gateway.peers import Peers

# --- proxies -------------------------------------------------------------------------------------


def test_only_a_trusted_proxy_is_believed() -> None:
    head = {b"host": b"h", b"x-forwarded-for": b"9.9.9.9, 8.8.8.8", b"x-forwarded-proto": b"https"}
    scope = {"client": ("10.0.0.1", 1), "scheme": "http"}
    assert Peers(()).origin(scope, head).ip == "10.0.0.1"
    assert Peers(("10.0.0.2",)).origin(scope, head).ip == "10.0.0.1"
    trusted = Peers(("10.0.0.0/8", "8.8.8.8")).origin(scope, head)
    assert trusted.ip == "9.9.9.9"
    assert list(trusted.headers) == [
        ["x-forwarded-for", "9.9.9.9, 8.8.8.8, 10.0.0.1"],
        ["x-forwarded-proto", "https"],
        ["x-forwarded-port", "443"],
    ]
    everyone = Peers(("0.0.0.0/0",)).origin(scope, head)
    assert everyone.ip == "9.9.9.9"
    odd = {b"x-forwarded-for": b"unknown, [::1]:80"}
    assert Peers(("10.0.0.0/8",)).origin(scope, odd).ip == "[::1]:80"
    assert Peers(("::1",)).origin({"client": ("::1", 1)}, {}).ip == "::1"
    for wrong in ("10.0.0.300", "proxy.example", "10.0.0.0/99"):
        with pytest.raises(SettingsInvalid, match="HEARTH_TRUSTED_PROXIES"):
            Peers((wrong,))


# --- forms ---------------------------------------------------------------------------------------


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    """The bytes of a form."""
    body = b""
    for disposition, data in parts:
        body += f"--x\r\ncontent-disposition: form-data; {disposition}\r\n\r\n".encode()
        body += data + b"\r\n"
    return body + end


def read(
    body: bytes, sizes: list[int], archive_bytes_max: int = 100_000
) -> tuple[bytes, DeployForm]:
    """Feed the body in pieces of these sizes, over and over."""
    parsed = DeployForm("multipart/form-data; boundary=x", archive_bytes_max)
    archive, start, turn = b"", 0, 0
    while start < len(body):
        size = sizes[turn % len(sizes)]
        parsed.feed(body[start : start + size])
        archive += b"".join(parsed.take())
        start, turn = start + size, turn + 1
    parsed.finish()
    return archive, parsed


@given(
    st.binary(max_size=300) | st.sampled_from([b"\r\n--", b"\r\n--x", b"--x--", b"\r" * 50]),
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
)
def test_a_form_is_the_same_however_it_is_cut(data: bytes, sizes: list[int]) -> None:
    if b"\r\n--x" in b"\r\n" + data + b"\r\n":
        return
    body = form(('name="archive"; filename="ä.py"', data), ('name="config"', b'{"a": 1}'))
    archive, parsed = read(body, sizes)
    assert archive == data
    assert bytes(parsed.config) == b'{"a": 1}'
    assert parsed.filename == "ä.py"


def test_a_form_over_its_limits_is_refused_as_soon_as_that_shows() -> None:
    file = 'name="archive"; filename="a"'
    assert len(read(form((file, b"y" * 1000)), [64], 1000)[0]) == 1000
    with pytest.raises(ArchiveTooLarge):
        read(form((file, b"y" * 1001)), [64], 1000)
    with pytest.raises(PayloadTooLarge, match="config"):
        read(form(('name="config"', b" " * (CONFIG_BYTES_MAX + 1))), [4096])
    with pytest.raises(PayloadTooLarge):
        read(form((file, b"y")) + b"z" * 600_000, [4096], 1000)
    with pytest.raises(RequestInvalid):
        read(b"--x\r\n" + b"a: b\r\n" * 10_000, [4096])


@given(st.binary(max_size=200))
def test_whatever_a_form_holds_it_is_read_or_a_typed_error(junk: bytes) -> None:
    with contextlib.suppress(HearthError):
        read(b"--x\r\n" + junk, [7])
