"""What dependencies cost a deploy that changes none of them."""

from __future__ import annotations

import io
import json
import random
import tarfile
import time
import zipfile

import httpx

from bench.client import BODY, ECHO, say
from bench.rows import Row, median_of

ROUNDS = 24
FILES, FILE_BYTES = 120, 4_000  # with byte code as many files as Pillow; sizes do not matter
WHEEL = "wheels/bench_pack-1-py3-none-any.whl"


def layer_reuse(client: httpx.Client) -> Row:
    """From upload to first answer, of changed code over packages that are installed already. The
    floor uploads as many bytes and installs nothing. The handler imports none of the packages."""
    say(f"deploys over {FILES} installed files, {ROUNDS} rounds")
    wheel = _wheel()
    values: list[float] = []
    floors: list[float] = []
    for turn in range(-1, ROUNDS):
        pair = (("bench-packages", f"./{WHEEL}\n", values), ("bench-bare", "", floors))
        for name, requirements, times in pair if turn % 2 else reversed(pair):
            took = _deploy(client, name, turn, requirements, wheel)
            if turn >= 0:  # the first installs
                times.append(took)
    value, spread = median_of(values)
    floor = median_of(floors)[0]
    bound = "ratio ≤ 1.2"
    return Row("layer_reuse_deploy_ms", value, "ms", floor, spread, bound, value <= 1.2 * floor)


def _deploy(client: httpx.Client, name: str, turn: int, requirements: str, wheel: bytes) -> float:
    """Milliseconds until the new version has answered."""
    files = {"main.py": f"{ECHO}\n# {turn}\n".encode(), WHEEL: wheel}
    files["requirements.txt"] = requirements.encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    upload = {"archive": ("code.tar.gz", archive.getvalue(), "application/gzip")}
    config = {"config": json.dumps({"runtime": "python3.13"})}
    started = time.perf_counter()
    made = client.put(f"/v1/functions/{name}?wait=true", files=upload, data=config)
    answer = client.post(f"/v1/functions/{name}/invocations", content=BODY)
    took = (time.perf_counter() - started) * 1000
    if made.status_code not in (200, 201) or answer.status_code != 200:
        raise SystemExit(f"deploying {name} failed: {made.text} {answer.text}")
    return took


def _wheel() -> bytes:
    """A package of many files, incompressible, so that it needs no index."""
    info, whole = "bench_pack-1.dist-info", io.BytesIO()
    files = {
        f"bench_pack/m{number}.py": b"x = " + repr(random.randbytes(FILE_BYTES // 3)).encode()
        for number in range(FILES)
    }
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: bench_pack\nVersion: 1\n"
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files).encode()
    with zipfile.ZipFile(whole, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return whole.getvalue()
