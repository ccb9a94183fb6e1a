"""The examples as a user meets them: each README's own commands, and what comes out."""

from __future__ import annotations

import io
import os
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from cli.showcase import missing_settings
from tests.fixtures.api import exists
from tests.fixtures.platform import HEARTH, Platform

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ALL = sorted(path.name for path in EXAMPLES.iterdir() if (path / "README.md").is_file())
NEEDS = {name: missing_settings(EXAMPLES / name) for name in ALL}
NAMES = [
    pytest.param(
        name, marks=pytest.mark.skipif(bool(NEEDS[name]), reason=f"set {' or '.join(NEEDS[name])}")
    )
    for name in ALL
]
ADDRESS = "127.0.0.1:8080"
NOBODYS_ORDER = "1a2b3c4d"


def commands_of(name: str) -> list[str]:
    """The lines that a README says to type; a backslash joins two."""
    text = (EXAMPLES / name / "README.md").read_text().replace("\\\n", " ")
    indented = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [line for line in indented if re.match(r"(hearth|curl|KEY=|API=)", line)]


@pytest.fixture
def desk(platform: Platform, tmp_path: Path) -> Path:
    """A directory like a clone's root, with what the READMEs speak of."""
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "README.md").write_text("# A page\n")
    (tmp_path / ".hearth").mkdir()
    (tmp_path / ".hearth" / "admin.key").write_text(platform.key)
    for name in ("photo.png", "photo.jpg"):
        Image.effect_noise((640, 480), 90).convert("RGB").save(tmp_path / name)
    return tmp_path


def type_in(platform: Platform, desk: Path, lines: list[str]) -> subprocess.CompletedProcess[bytes]:
    """What a shell answers."""
    script = "\n".join(lines).replace(ADDRESS, platform.settings.address)
    environ = {**platform.env, "PATH": f"{HEARTH.parent}:{os.environ['PATH']}"}
    script = script.replace("curl ", "curl --silent --show-error --fail-with-body ")
    return subprocess.run(
        ["bash", "-euc", script], env=environ, cwd=desk, capture_output=True, check=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_an_examples_readme_work_as_written(
    platform: Platform, desk: Path, name: str
) -> None:
    commands = commands_of(name)
    assert commands[0] == f"hearth deploy examples/{name}"
    assert any("hearth invoke" in line for line in commands)
    assert any(line.startswith("curl") for line in commands)
    kept: list[str] = []  # variables that later lines use
    for line in commands:
        if line.startswith(("KEY=", "API=")):
            kept.append(line)
            continue
        done = type_in(platform, desk, [*kept, line])
        if NOBODYS_ORDER in line:  # an order of the reader's own stands there
            assert b"there is no order" in done.stdout + done.stderr
        else:
            assert done.returncode == 0, f"{line}\n{done.stdout!r}\n{done.stderr.decode()}"
    images = {path.name: path for path in desk.glob("*.jpg") if path.name != "photo.jpg"}
    if name == "thumbnail":
        assert set(images) == {"small.jpg", "tiny.jpg"}
        for made, width in (("small.jpg", 160), ("tiny.jpg", 80)):
            with Image.open(images[made]) as image:
                assert (image.format, image.width) == ("JPEG", width)
    if name == "markdown":
        assert "<h1>A page</h1>" in (desk / "readme.html").read_text()


def deployed(platform: Platform, name: str) -> dict[str, object]:
    """`hearth deploy --json` of an example."""
    done = platform.hearth("deploy", str(EXAMPLES / name), "--json")
    assert done.status == 0, done.stderr
    version: dict[str, object] = done.json()
    return version


def test_a_photo_becomes_a_smaller_jpeg_over_plain_http(platform: Platform) -> None:
    deployed(platform, "thumbnail")
    buffer = io.BytesIO()
    Image.effect_noise((3000, 2000), 80).convert("RGB").save(buffer, "JPEG", quality=95)
    photo = buffer.getvalue()
    assert 2 * 1024 * 1024 < len(photo) < platform.settings.payload_bytes_max
    with platform.client() as client:
        answer = client.post("/function/thumbnail?width=320", content=photo)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert len(answer.content) < len(photo) / 10
        with Image.open(io.BytesIO(answer.content)) as image:
            image.load()
            assert (image.format, image.size) == ("JPEG", (320, 213))
        refusals = {
            client.post("/function/thumbnail", content=b"").status_code,
            client.post("/function/thumbnail?width=0", content=photo).status_code,
        }
        assert refusals == {400}
        assert client.post("/function/thumbnail", content=b"text").status_code == 415
        assert client.post("/function/thumbnail", content=photo[:9999]).status_code == 422


def test_a_redeploy_with_the_same_dependencies_installs_nothing(
    platform: Platform, tmp_path: Path
) -> None:
    before = deployed(platform, "thumbnail")
    changed = tmp_path / "thumbnail"
    changed.mkdir()
    for path in (EXAMPLES / "thumbnail").iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    (changed / "main.py").write_text((changed / "main.py").read_text() + "\n# changed\n")
    done = platform.hearth("deploy", str(changed), "--json")
    assert done.status == 0, done.stderr
    number = done.json()["version"]
    assert number == int(str(before["version"])) + 1
    with platform.client() as client:
        log = client.get(f"/v1/functions/thumbnail/versions/{number}/build-log").text
        assert re.search(r"the same as installed .* ago: reused", log), log
        assert not [line for line in log.splitlines() if line.startswith("$ ")], log
        photo = (EXAMPLES / "thumbnail" / "photo.jpg").read_bytes()
        assert client.post("/function/thumbnail", content=photo).status_code == 200
    held = (platform.settings.data_dir / "code").glob("*/tree/.hearth/site-packages/PIL/Image.py")
    copies = [path.stat() for path in held]
    assert len(copies) >= 3, "two versions, and the layer that they share"
    assert len({facts.st_ino for facts in copies}) == 1


def test_orders_routes_and_methods(platform: Platform) -> None:
    deployed(platform, "orders-api")
    with platform.client() as client:
        api = "/function/orders-api/orders"
        made = client.post(api, json={"item": "firewood", "quantity": 2})
        assert (made.status_code, made.json()["status"]) == (201, "new")
        place = made.headers["location"]
        assert client.get(place).json() == made.json()
        assert client.patch(place, json={"status": "shipped", "quantity": 5}).status_code == 200
        listed = client.get(api, params={"status": "shipped"}).json()["orders"]
        assert [order["quantity"] for order in listed if order["id"] == made.json()["id"]] == [5]
        assert client.delete(place).status_code == 204
        assert client.get(place).status_code == 404
        assert client.put(api).headers["allow"] == "GET, POST"
        statuses = [
            client.post(api, content=b"{").status_code,
            client.post(api, json={"item": ""}).status_code,
            client.get(api, params={"status": "lost"}).status_code,
            client.get("/function/orders-api/elsewhere").status_code,
        ]
        assert statuses == [400, 422, 400, 404]


@pytest.mark.parametrize("name", ["hello-python", "hello-node"])
def test_hello_greets_by_event_and_by_query(platform: Platform, name: str) -> None:
    deployed(platform, name)
    with platform.client() as client:
        by_event = client.post(f"/v1/functions/{name}/invocations", json={"name": "Ada"})
        assert by_event.json()["message"] == "Hello, Ada!"
        by_query = client.get(f"/function/{name}", params={"name": "Grace"})
        assert by_query.json()["message"] == "Hello, Grace!"
        if name == "hello-python":
            by_body = client.post(f"/function/{name}", json={"name": "Alan"})
            assert by_body.json()["message"] == "Hello, Alan!"


def test_markdown_becomes_html_and_raw_html_stays_text(platform: Platform) -> None:
    deployed(platform, "markdown")
    with platform.client() as client:
        text = "# Ünï\n\n<script>alert(1)</script> **bold**"
        answer = client.post(
            "/function/markdown", content=text, headers={"content-type": "text/markdown"}
        )
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>Ünï</h1>" in answer.text
        assert "<strong>bold</strong>" in answer.text
        assert "<script>" not in answer.text
        assert client.get("/function/markdown").status_code == 405


def test_every_example_says_what_it_is(platform: Platform) -> None:
    known = {"hello-python", "hello-node", "thumbnail", "markdown", "orders-api", "digest-bash"}
    assert known <= set(ALL)
    for name in (name for name in ALL if not NEEDS[name]):
        with platform.client() as client:
            if not exists(client, name):
                deployed(platform, name)
            shown = client.get(f"/v1/functions/{name}").json()
        assert shown["config"]["description"]
