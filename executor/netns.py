"""The host's network as a container's walls need it, and putting the walls up.

Reads addresses and resolvers of the host, resolves allowed names, and loads executor/firewall.py's
rules into the namespace of a container that has been initialised but not yet started.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from core.errors import SandboxBroken
from executor.firewall import Address, Endpoint, Rules

_APPLY_S = 30.0
_RESOLV_CONFS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_LOCAL = re.compile(r"\|-- (?P<address>[0-9.]+)\n\s+/32 host LOCAL")


def host_addresses() -> frozenset[Address]:
    """Every address of this host's network namespace, loopback ones left out."""
    found: set[Address] = set()
    trie = Path("/proc/net/fib_trie").read_text()
    found.update(IPv4Address(match["address"]) for match in _LOCAL.finditer(trie))
    try:
        table = Path("/proc/net/if_inet6").read_text()
    except FileNotFoundError:
        table = ""  # a kernel without IPv6
    found.update(IPv6Address(bytes.fromhex(line.split()[0])) for line in table.splitlines())
    return frozenset(address for address in found if not address.is_loopback)


def resolvers() -> tuple[Address, ...]:
    """Name servers that a container can reach: the host's, without those on its loopback, and
    those of IPv6 that only one of its links knows. One of version 4 may well be link-local: a
    cloud's is."""
    for conf in _RESOLV_CONFS:
        found = tuple(a for a in _nameservers(conf) if not (a.is_loopback or _needs_zone(a)))
        if found:
            return found
    return ()


def resolve(host: str, port: int | None = None) -> frozenset[Endpoint]:
    """Where a name leads now; nothing when it does not resolve. May take seconds."""
    try:
        found = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    addresses = {str(entry[4][0]).partition("%")[0] for entry in found}
    return frozenset(Endpoint(ip_address(address), port) for address in addresses)


def wall(pid: int, rules: Rules) -> None:
    """Load the rules into the network namespace of process `pid`. SandboxBroken if that fails:
    then nothing may be started in it."""
    namespace = f"/proc/{pid}/ns/net"
    _restore(namespace, "iptables-restore", rules.v4)
    if Path("/proc/net/if_inet6").exists():
        _restore(namespace, "ip6tables-restore", rules.v6)


def _restore(namespace: str, program: str, text: str) -> None:
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise SandboxBroken(f"{program} is not installed: a container's network cannot be walled")
    try:
        done = subprocess.run(
            ["nsenter", f"--net={namespace}", found, "--wait", "5"],
            input=text,
            capture_output=True,
            text=True,
            timeout=_APPLY_S,
            check=False,
            env={"PATH": _PATH},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxBroken(f"a container's network could not be walled: {error}") from error
    if done.returncode:
        raise SandboxBroken(f"{program}: {done.stderr.strip() or done.returncode}")


def _needs_zone(address: Address) -> bool:
    return address.version == 6 and address.is_link_local


def _nameservers(conf: Path) -> Iterator[Address]:
    try:
        lines: Iterable[str] = conf.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                yield ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
