"""Builds, with a real Redis, Podman, database and store; only the gateway is a small stand-in."""
