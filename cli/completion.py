"""What the shell offers for NAME: the functions of the platform that would be asked."""

from __future__ import annotations

from collections.abc import Iterator

from cli.client import Client
from cli.connection import find_connection
from cli.failures import CliError


def function_names(incomplete: str) -> Iterator[str]:
    """Names that begin so; none when the platform cannot say. It never gets in the way."""
    try:
        with Client(find_connection(None)) as client:
            for function in client.functions():
                if str(function["name"]).startswith(incomplete):
                    yield str(function["name"])
    except CliError:
        return
