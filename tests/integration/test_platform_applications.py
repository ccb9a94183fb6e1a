"""Web applications as people write them, in frameworks that people use, deployed as they stand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.fixtures.api import deploy, invoke, logged, put, refused, until
from tests.fixtures.platform import Platform

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FLASK = """
import os
from flask import Flask, Response, request, url_for

app = Flask(__name__)
loaded = os.getpid()


@app.route("/")
def index():
    seen = int(request.cookies.get("seen", 0)) + 1
    answer = Response(f"{seen} {url_for('files', name='a b')} {os.getpid() != loaded}")
    answer.set_cookie("seen", str(seen))
    return answer


@app.route("/files/<path:name>", methods=["PUT"])
def files(name):
    print(f"{name} has {len(request.data)} bytes")
    return {"name": name, "bytes": len(request.data), "from": request.remote_addr}, 201


@app.route("/rows")
def rows():
    return Response((f"{n}\\n" for n in range(3)), mimetype="text/plain")


@app.route("/breaks")
def breaks():
    raise ValueError("no gold")
"""


def example(client: httpx.Client, name: str) -> dict[str, object]:
    """An example, deployed under a name of this test's own."""
    folder = EXAMPLES / name
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    answer = put(client, f"test-{name}", files, runtime="node" if "express" in name else "python")
    assert answer.status_code == 201, answer.text
    version: dict[str, object] = answer.json()
    return version


def test_fastapi_is_served_as_it_stands(platform: Platform, client: httpx.Client) -> None:
    example(client, "fastapi-app")
    shop = "/function/test-fastapi-app"
    made = client.post(f"{shop}/items", json={"name": "kindling", "price": 3.5})
    assert made.status_code == 201
    assert made.json()["item"] == f"{platform.url}{shop}/items/2"
    assert client.get(made.json()["item"]).json() == {"name": "kindling", "price": 3.5}
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: client.get(f"{shop}/items?below=4"), range(60)))
    assert {answer.json().get("2", {}).get("name") for answer in answers} == {"kindling"}
    wrong = client.post(f"{shop}/items", json={"name": "", "price": 1})
    assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["body", "name"])
    assert client.get(f"{shop}/items/7").json() == {"detail": "there is no item 7"}
    assert client.get(f"{shop}/items/", follow_redirects=False).headers["location"] == (
        f"{platform.url}{shop}/items"
    )
    made = client.post(f"{shop}:latest/items", json={"name": "peat", "price": 1})
    assert made.json()["item"].startswith(f"{platform.url}{shop}:latest/items/")
    assert client.head(f"{shop}/openapi.json").text == ""
    assert client.get(f"{shop}/openapi.json").json()["servers"] == [{"url": shop}]
    with client.stream("GET", f"{shop}/countdown?start=1") as answer:
        pieces = [piece for piece in answer.iter_text() if piece]
    assert (len(pieces), pieces[0]) == (2, "data: 1\n\n")
    event = {"httpMethod": "GET", "path": "/items/2", "headers": {"host": "h"}}
    assert invoke(client, "test-fastapi-app", event).json()["statusCode"] == 200
    error = refused(invoke(client, "test-fastapi-app", {"name": "Ada"}), 502, "function_error")
    assert "is a web application" in error["message"]
    assert client.delete("/v1/functions/test-fastapi-app").status_code == 204


def test_a_lifespan_is_over_before_its_sandbox_is(client: httpx.Client) -> None:
    deploy(
        client,
        "lives",
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        await receive()\n"
        "        print('opens')\n"
        "        await send({'type': 'lifespan.startup.complete'})\n"
        "        await receive()\n"
        "        print('closes')\n"
        "        return await send({'type': 'lifespan.shutdown.complete'})\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        "    await send({'type': 'http.response.body', 'body': b'served'})\n",
        handler="main:app",
    )
    assert client.get("/function/lives").text == "served"
    deploy(client, "lives")  # another version: the first one's sandbox retires

    def has_closed() -> bool:
        return [line["text"] for line in logged(client, "lives")][:2] == ["opens", "closes"]

    until(has_closed, "the application never closed")


@pytest.mark.parametrize("isolation", ["sandbox", "request"])
def test_flask_is_served_as_it_stands(
    platform: Platform, client: httpx.Client, isolation: str
) -> None:
    files = {"shop/web.py": FLASK, "shop/__init__.py": "", "requirements.txt": "flask\n"}
    answer = put(client, "flask", files, handler="shop.web:app", isolation=isolation)
    assert answer.status_code == 201, answer.text
    first = client.get("/function/flask")
    assert first.text == f"1 /function/flask/files/a%20b {isolation == 'request'}"
    assert client.get("/function/flask/").text.startswith("2 ")
    body = bytes(range(256)) * 40
    made = client.put("/function/flask/files/caf%C3%A9%20au%20lait", content=body)
    assert (made.status_code, made.json()["name"]) == (201, "café au lait")
    assert made.json() == {"name": "café au lait", "bytes": len(body), "from": "127.0.0.1"}
    assert client.get("/function/flask/rows").text == "0\n1\n2\n"
    assert client.head("/function/flask/rows").text == ""
    broken = client.get("/function/flask/breaks")
    assert (broken.status_code, "Internal Server Error" in broken.text) == (500, True)
    told = [line["text"] for line in logged(client, "flask")]
    assert f"café au lait has {len(body)} bytes" in told
    assert "ValueError: no gold" in told


def test_express_is_served_as_it_stands(client: httpx.Client) -> None:
    example(client, "express-app")
    book = "/function/test-express-app"
    page = client.get(f"{book}/", headers={"cookie": "visits=3"})
    assert "Your visit 4, from 127.0.0.1." in page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "visits=4" in page.headers["set-cookie"]
    again = client.get(f"{book}/entries", headers={"if-none-match": "x"})
    tag = {"if-none-match": again.headers["etag"]}
    assert client.get(f"{book}/entries", headers=tag).status_code == 304
    with ThreadPoolExecutor(12) as threads:
        texts = [f"{n} " + "x" * n * 500 for n in range(24)]
        posts = threads.map(
            lambda text: client.post(f"{book}/entries", json={"name": "G", "text": text}), texts
        )
        assert {post.status_code for post in posts} == {201}
    listed = client.get(f"{book}/entries.txt").text.splitlines()
    assert sorted(listed[1:]) == sorted(f"G: {text.strip()}" for text in texts)
    assert client.head(f"{book}/entries").text == ""
    assert client.post(f"{book}/entries", content=b"{", headers=JSON).status_code == 400
    assert client.post(f"{book}/entries", json={"text": "x" * 20_000}).status_code == 413
    assert client.get(f"{book}/nowhere%20at%20all").json()["error"].endswith("/nowhere%20at%20all")
    client.delete("/v1/functions/test-express-app")


JSON = {"content-type": "application/json"}


def test_what_cannot_be_served_is_refused_when_it_is_deployed(client: httpx.Client) -> None:
    code = "def app(environ, start_response): ...\n"
    files = {"main.py": code}
    answer = put(client, "no-app", files, handler="main:app", per_sandbox=5)
    assert "speaks WSGI" in answer.text
    answer = put(client, "no-app", files, handler="main:nothing")
    assert "does not exist" in answer.text
    assert "app" in answer.text
    refused(put(client, "no-app", files, handler="main:app:x"), 422, "config_invalid")
