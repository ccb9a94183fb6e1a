#!/usr/bin/env python3
"""Prepares a fresh Debian for Hearth: system packages, a virtual environment, locked dependencies.

Standard library only, for nothing else is there yet. Every step first looks whether it is done,
so that running this again costs a moment; every error says what to do next.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON_MIN = (3, 11)

# What Hearth needs of the system. podman brings conmon; podman's own choice of the rest is a
# recommendation, which is not installed here, so it is named.
PACKAGES = {
    "podman": "podman",
    "crun": "crun",
    "runc": "runc",
    "netavark": "/usr/lib/podman/netavark",
    "aardvark-dns": "/usr/lib/podman/aardvark-dns",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
    "python3-venv": "",  # python3 with ensurepip, looked for by itself
}
DEV_PACKAGES = {"postgresql": "/usr/lib/postgresql"}
BENCH_PACKAGES = {"wrk": "wrk", "nginx-light": "nginx"}

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = (
    "#!/bin/sh\n# Hearth's setup: packages are installed, no service is started.\nexit 101\n"
)
CLUSTERS = Path("/etc/postgresql-common/createcluster.conf")
CLUSTERS_TEXT = (
    "# Written by Hearth's setup: its tests start servers of their own.\n"
    "create_main_cluster = false\n"
)


class SetupFailed(Exception):
    """A step could not be done; the message says what to do next."""


def main() -> int:
    """Do every step that is not done yet."""
    asked = _arguments()
    began = time.monotonic()
    packages = {**PACKAGES, **(DEV_PACKAGES if asked.dev else {})}
    packages |= BENCH_PACKAGES if asked.bench else {}
    steps: list[tuple[str, Callable[[], str]]] = [
        ("Python", check_python),
        ("system packages", lambda: install_packages(packages)),
        ("virtual environment", make_venv),
        ("Python packages", lambda: install_requirements(dev=asked.dev)),
        ("hearth itself", install_project),
    ]
    try:
        for number, (name, step) in enumerate(steps, 1):
            _say(f"[{number}/{len(steps)}] {name} … ")
            started = time.monotonic()
            outcome = step()
            _say(f"{outcome} ({time.monotonic() - started:.1f} s)\n")
    except SetupFailed as error:
        _say(f"failed\n\nerror: {error}\n")
        return 1
    _say(f"setup is done in {time.monotonic() - began:.1f} s\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="also what the tests need")
    parser.add_argument("--bench", action="store_true", help="also what the benchmark needs")
    return parser.parse_args()


def check_python() -> str:
    """This interpreter makes the virtual environment: it must be new enough."""
    if sys.version_info < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        raise SetupFailed(
            f"{sys.executable} is Python {sys.version.split()[0]}; Hearth needs {wanted}.\n"
            f"Next: install it, then `make setup PYTHON=/path/to/python{wanted}`."
        )
    return f"{sys.version.split()[0]} at {sys.executable}"


# --- system packages -----------------------------------------------------------------------------


def install_packages(packages: dict[str, str]) -> str:
    """Install what is missing, without recommendations and without starting a service."""
    missing = [name for name, proof in packages.items() if not _is_there(name, proof)]
    if not missing:
        return f"all {len(packages)} there"
    if shutil.which("apt-get") is None:
        raise SetupFailed(
            f"missing: {' '.join(missing)}, and this system has no apt-get.\n"
            "Next: install them with the system's own package manager, then run this again."
        )
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    if as_root and shutil.which("sudo") is None:
        raise SetupFailed(
            f"missing: {' '.join(missing)}; installing them takes root, and there is no sudo.\n"
            f"Next: as root, `apt-get install --no-install-recommends {' '.join(missing)}`."
        )
    _say(f"installing {' '.join(missing)} … ")
    with _services_stay_off(as_root, missing):
        _apt(as_root, ["update"])
        _apt(as_root, ["install", "--yes", "--no-install-recommends", *missing])
    return f"{len(missing)} installed"


def _is_there(package: str, proof: str) -> bool:
    """A package counts by what it brings, so that another way of installing it counts too."""
    if package == "python3-venv":
        return _venv_works()
    if proof.startswith("/"):
        return Path(proof).exists() or _dpkg_knows(package)
    return shutil.which(proof, path=_search_path()) is not None


def _venv_works() -> bool:
    code = "import ensurepip, venv"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False)
    return done.returncode == 0


def _dpkg_knows(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "installed"


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _apt(as_root: Sequence[str], arguments: Sequence[str]) -> None:
    # `env`, because sudo keeps no variables: no questions asked, no file of the user's replaced.
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "UCF_FORCE_CONFFOLD=1"]
    options = ["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confold"]
    command = [*as_root, *quiet, "apt-get", *options, *arguments]
    _run(
        command, "Next: see what apt-get says above; is the network there, is another apt running?"
    )


@contextmanager
def _services_stay_off(as_root: Sequence[str], missing: Sequence[str]) -> Iterator[None]:
    """While packages are installed, Debian's own switch keeps their services from starting."""
    if "postgresql" in missing and not CLUSTERS.exists():
        _write_as_root(as_root, CLUSTERS, CLUSTERS_TEXT, "644")
    ours = not POLICY.exists() or POLICY.read_text() == POLICY_TEXT
    if ours:
        _write_as_root(as_root, POLICY, POLICY_TEXT, "755")
    try:
        yield
    finally:
        if ours:
            subprocess.run([*as_root, "rm", "-f", str(POLICY)], check=False)
    if "nginx-light" in missing and Path("/run/systemd/system").exists():
        subprocess.run([*as_root, "systemctl", "disable", "--quiet", "nginx"], check=False)


def _write_as_root(as_root: Sequence[str], path: Path, text: str, mode: str) -> None:
    script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
    command = [*as_root, "sh", "-c", script, "sh", str(path), mode]
    if subprocess.run(command, input=text, text=True, check=False).returncode:
        raise SetupFailed(f"could not write {path} as root.\nNext: run `make setup` as root.")


# --- the virtual environment ---------------------------------------------------------------------


def make_venv() -> str:
    """A virtual environment of this interpreter, made anew when it cannot work any more."""
    version = _venv_version()
    if version >= PYTHON_MIN:
        return f"Python {'.'.join(map(str, version))} in {VENV.name}"
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    _run(command, f"Next: remove {VENV} and run this again.")
    return f"made {VENV.name}"


def _venv_version() -> tuple[int, ...]:
    """(0,) when there is none that works: its interpreter has gone or become another version's
    (then its packages are out of sight), or the checkout was moved (then its scripts start
    what is no longer there)."""
    config = VENV / "pyvenv.cfg"
    text = config.read_text() if config.exists() else ""
    made = re.search(r"^version\s*=\s*(\d+)\.(\d+)", text, re.MULTILINE)
    if not made or str(VENV) not in text:
        return (0,)
    code = "import sys; print(*sys.version_info[:2], sep='.')"
    try:
        command = [str(VENV / "bin" / "python"), "-I", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return (0,)
    same = done.stdout.strip() == f"{made[1]}.{made[2]}"
    return (int(made[1]), int(made[2])) if same else (0,)


def install_requirements(*, dev: bool) -> str:
    """Exactly the locked versions, each checked against its hash."""
    lock = ROOT / "infra" / ("requirements-dev.lock" if dev else "requirements.lock")
    wanted = locked(lock.read_text())
    have = _installed()
    wrong = [name for name, version in wanted.items() if have.get(name) != version]
    if not wrong and _stamped(lock):
        return f"all {len(wanted)} there"
    _say(f"{len(wrong)} of {len(wanted)} to install … ")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    options = ["--quiet", "--no-deps", "--require-hashes", "--requirement", str(lock)]
    _run([*pip, *options], "Next: see what pip says above; is the package index reachable?")
    _stamp(lock)
    return "installed"


def locked(text: str) -> dict[str, str]:
    """Name to version of what a lock file asks of every platform (markers are pip's business)."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(;?)", text, re.MULTILINE)
    return {_canonical(name): version for name, version, marker in lines if not marker}


def _installed() -> dict[str, str]:
    found = {}
    for path in VENV.glob("lib/python3*/site-packages/*.dist-info"):
        name, _, version = path.name.removesuffix(".dist-info").partition("-")
        found[_canonical(name)] = version
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def install_project() -> str:
    """Hearth's own packages and the `hearth` command, straight from this checkout."""
    project = ROOT / "pyproject.toml"
    if (VENV / "bin" / "hearth").exists() and _stamped(project):
        return "there"
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--editable"]
    _run([*pip, *options, str(ROOT)], f"Next: remove {VENV} and run this again.")
    _stamp(project)
    return "installed"


def _stamp_path(of: Path) -> Path:
    return VENV / f".hearth-{of.name}.sha256"


def _stamp_text(of: Path) -> str:
    # The path is in it, for an editable installation points at its checkout.
    return hashlib.sha256(of.read_bytes() + str(of).encode()).hexdigest()


def _stamped(of: Path) -> bool:
    path = _stamp_path(of)
    return path.exists() and path.read_text() == _stamp_text(of)


def _stamp(of: Path) -> None:
    _stamp_path(of).write_text(_stamp_text(of))


def _run(command: Sequence[str], next_step: str) -> None:
    """Run quietly; when it fails, show the end of what it wrote and what to do next."""
    done = subprocess.run(
        command,
        stdin=None if command[0] == "sudo" else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-30:])
        raise SetupFailed(
            f"`{' '.join(command)}` ended with {done.returncode}:\n{last}\n{next_step}"
        )


def _say(text: str) -> None:
    print(text, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
