"""Parts of a platform are killed while it works: it names the part, goes on without it where it
can, and heals when the part is back. One platform for all tests here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.fixtures.api import (
    HOLDS,
    away,
    containers,
    deploy,
    exists,
    held,
    in_its_check,
    invoke,
    kill,
    leaving_nothing,
    nothing_restarted,
    objects,
    passing,
    put_code,
    ready,
    refused,
    seats,
    stopped,
    until,
)
from tests.fixtures.platform import Platform, make_platform, start, stop

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

NAME = "def handler(event, context):\n    return [{0!r}, context.function_version]\n"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform whose parts are killed."""
    made = make_platform(tmp_path_factory.mktemp("faulty") / "data")
    start(made)
    yield made
    stop(made)


@pytest.fixture
def client(faulty: Platform) -> Iterator[httpx.Client]:
    """Its client; everything answers before and after each test, and nothing stays."""
    until(lambda: ready(faulty), "the platform does not heal")
    with leaving_nothing(faulty) as client:
        yield client
        until(lambda: ready(faulty), "the platform does not heal")


def is_active(client: httpx.Client, name: str, number: int) -> bool:
    """Whether the version's build has ended well; fails when it ended otherwise."""
    version = client.get(f"/v1/functions/{name}/versions/{number}").json()
    assert version["status"] != "failed", version["error"]
    return bool(version["status"] == "active")


def test_without_redis_deploys_are_refused_by_name_and_invocations_go_on(
    faulty: Platform, client: httpx.Client
) -> None:
    deploy(client, "warm", NAME.format("warm"))
    kept = objects(faulty.settings)
    before = faulty.running.children["redis"]
    with nothing_restarted(faulty):
        kill(faulty, "redis")
        for answer in (
            put_code(client, "unborn", NAME.format("x")),
            put_code(client, "warm", NAME.format("x")),
            client.patch("/v1/functions/warm", json={"memory_mb": 256}),
        ):
            error = refused(answer, 503, "part_away")
            assert (error["part"], answer.headers["retry-after"]) == ("redis", "1")
        assert invoke(client, "warm").json() == ["warm", "1"]
        until(lambda: away(faulty) == "redis", "/readyz does not name it")
        assert client.put("/v1/functions/warm/aliases/prod", json={"version": 1}).status_code == 200
        assert invoke(client, "warm:prod").json() == ["warm", "1"]
        assert httpx.get(f"{faulty.url}/healthz").status_code == 200
    until(lambda: ready(faulty), "redis never came back")
    assert faulty.running.children["redis"] != before
    assert not exists(client, "unborn")
    assert (passing(faulty.settings), objects(faulty.settings)) == ([], kept)
    assert client.get("/v1/functions/warm").json()["newest"] == 1
    assert deploy(client, "warm", NAME.format("again"))["version"] == 2
    assert invoke(client, "warm").json() == ["again", "2"]


def test_a_build_asked_for_before_redis_died_is_built(
    faulty: Platform, client: httpx.Client
) -> None:
    with stopped(faulty, "builder"):  # nobody takes the job before Redis dies
        body = {"config": {"name": "asked", "runtime": "python"}, "code": NAME.format("asked")}
        assert client.post("/v1/functions", json=body).status_code == 202
        kill(faulty, "redis")
    until(lambda: is_active(client, "asked", 1), "the build was lost with Redis")
    assert invoke(client, "asked").json() == ["asked", "1"]


def test_without_podman_warm_functions_answer_and_builds_wait(
    faulty: Platform, client: httpx.Client
) -> None:
    deploy(client, "warm", NAME.format("warm"), concurrency=4)
    with nothing_restarted(faulty):
        kill(faulty, "podman")
        assert invoke(client, "warm").json() == ["warm", "1"]
        until(lambda: away(faulty) == "podman", "/readyz does not name it")
        for number in range(3):  # more than there are stems
            config = {"name": f"w-{number}", "runtime": "python"}
            body = {"config": config, "code": NAME.format(number)}
            assert client.post("/v1/functions", json=body).status_code == 202
        log = "/v1/functions/w-{}/versions/1/build-log"
        until(
            lambda: any("podman" in client.get(log.format(n)).text for n in range(3)),
            "no build says what it waits for",
        )
    for number in range(3):
        until(partial(is_active, client, f"w-{number}", 1), "it was never built")
        assert invoke(client, f"w-{number}").json() == [number, "1"]
    assert invoke(client, "warm").json() == ["warm", "1"]


def test_a_builder_killed_in_the_middle_is_followed_by_another_that_ends_the_build(
    faulty: Platform, client: httpx.Client
) -> None:
    deploy(client, "slow", NAME.format("before"))
    with in_its_check(faulty, client, "slow", NAME.format("after")):
        before = kill(faulty, "builder")
    assert invoke(client, "slow").json()[0] in ("before", "after")
    until(lambda: is_active(client, "slow", 2), "the build is stuck")
    assert invoke(client, "slow").json() == ["after", "2"]
    told = client.get("/v1/functions/slow/versions/2/build-log").text
    assert "attempt 2: the builder died in the middle of the last" in told
    assert faulty.running.children["builder"] != before


def test_a_seat_made_for_the_check_goes_when_its_version_never_becomes_active(
    faulty: Platform, client: httpx.Client
) -> None:
    before = seats(faulty.settings)
    with stopped(faulty, "builder"):  # the test asks in its stead, and then nobody goes on
        body = {"config": {"runtime": "python"}, "code": NAME.format("checked")}
        version = client.put("/v1/functions/checked", json=body).json()
        layers = [version["archive"]["sha256"]]
        inside = httpx.HTTPTransport(uds=str(faulty.settings.internal_socket))
        with httpx.Client(transport=inside, base_url="http://node", timeout=60) as asking:
            wish = {"version_id": version["id"], "layers": layers}
            assert asking.post("/internal/check", json=wish).json() == {"ok": True}
        assert seats(faulty.settings) == before + 1
        assert client.delete("/v1/functions/checked").status_code == 204
        until(lambda: seats(faulty.settings) == before, "the seat waits for its version for ever")


@pytest.mark.parametrize("killed", [("gateway",), ("guard", "gateway")])
def test_a_killed_gateway_leaves_no_sandbox_and_comes_back(
    faulty: Platform, client: httpx.Client, killed: tuple[str, ...]
) -> None:
    deploy(client, "sleeper", HOLDS)
    assert invoke(client, "sleeper").json() == "let go"
    failures: list[Exception] = []

    def call() -> None:
        with faulty.client() as own:
            try:
                invoke(own, "sleeper", "hold")
            except httpx.TransportError as error:
                failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: held(client, "sleeper") == 1, "the call never began")
    settings = faulty.settings
    sandboxes = {path.name for path in (settings.run_dir / "sandboxes").iterdir()}
    old, pids = containers(settings), {name: faulty.running.children[name] for name in killed}
    assert seats(settings) == 1
    with nothing_restarted(faulty):
        for name in killed:
            kill(faulty, name)
        if "guard" not in killed:  # it clears by itself, before anything else is started
            until(lambda: seats(settings) == 0, "the guard unmounts nothing")
            until(lambda: not containers(settings) & old, "the guard left containers")
    thread.join()
    assert len(failures) == 1
    until(lambda: ready(faulty), "no new gateway")
    assert all(faulty.running.children[name] != pid for name, pid in pids.items())
    now = {path.name for path in (settings.run_dir / "sandboxes").iterdir()}
    assert not (sandboxes & now) - {"hosts"}
    assert not containers(settings) & old
    assert seats(settings) == 0
    groups = [path.name for path in Path("/sys/fs/cgroup").glob("*/hearth-*/*") if path.is_dir()]
    assert not (sandboxes - {"hosts"}) & set(groups)
    assert invoke(client, "sleeper").json() == "let go"


def test_with_its_directory_away_the_store_is_named_and_warm_functions_answer(
    faulty: Platform, client: httpx.Client
) -> None:
    deploy(client, "warm", NAME.format("warm"))
    root = faulty.settings.data_dir / "objects"
    aside = root.with_name("objects-aside")
    root.rename(aside)
    try:
        answer = put_code(client, "unborn", NAME.format("x"))
        assert refused(answer, 503, "part_away")["part"] == "object store"
        until(lambda: away(faulty) == "object store", "/readyz does not name it")
        assert invoke(client, "warm").json() == ["warm", "1"]
        gone = client.get("/v1/functions/warm/versions/1/archive")
        assert refused(gone, 503, "part_away")["part"] == "object store"
        assert not root.exists(), "a store that is away is not made anew, empty"
    finally:
        aside.rename(root)
    until(lambda: ready(faulty), "the store never came back")
    assert not exists(client, "unborn")
    assert deploy(client, "warm", NAME.format("again"))["version"] == 2
