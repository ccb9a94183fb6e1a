"""Opens the client that a command talks through."""

from __future__ import annotations

from cli.client import Client
from cli.connection import Connection, find_connection
from cli.output import Output


def connection_of(output: Output) -> Connection:
    """Where the platform of this run is."""
    return find_connection(output.url)


def open_client(output: Output) -> Client:
    """A client of the platform of this run; use it as a context manager."""
    return Client(connection_of(output))
