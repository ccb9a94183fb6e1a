"""Fixtures of real servers, each in its own module."""

pytest_plugins = [
    "tests.fixtures.redis_server",
    "tests.fixtures.s3",
    "tests.fixtures.postgres",
    "tests.fixtures.podman_service",
    "tests.fixtures.sandboxes",
    "tests.fixtures.fake_starter",
    "tests.fixtures.scene",
    "tests.fixtures.internet",
    "tests.fixtures.package_index",
    "tests.fixtures.platform",
]
