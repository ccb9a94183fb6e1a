"""What is said of an installation: its packages and their sizes, and why it failed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from core.errors import BuildFailed
from core.limits import BUILD_LOG_BYTES_MAX, VERSION_BYTES_MAX
from worker.installed import Installed, check_size, look
from worker.reasons import why

SITE = ".hearth/site-packages"


def layer(root: Path, **files: int) -> Path:
    """Files of so many bytes, `__` standing for the slash."""
    for name, size in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return root


def site(root: Path, records: dict[str, str], files: dict[str, int]) -> Path:
    for name, text in records.items():
        (root / SITE / name).mkdir(parents=True)
        (root / SITE / name / "RECORD").write_text(text)
    for name, size in files.items():
        (root / SITE / name).parent.mkdir(parents=True, exist_ok=True)
        (root / SITE / name).write_bytes(b"x" * size)
    return root


def test_python_packages_own_what_their_records_name(tmp_path: Path) -> None:
    records = {
        "pillow-12.0.0.dist-info": "PIL/__init__.py,sha256=x,5\npillow.libs/a.so,,\n../../bin/p,,",
        "six-1.17.0.dist-info": "six.py,,\n__pycache__/six.cpython-313.pyc,,\n",
    }
    files = {"PIL/__init__.py": 5_000, "pillow.libs/a.so": 90_000, "six.py": 300, "odd.py": 7}
    found = look(site(tmp_path, records, files))
    assert (found.count, [label for label, _ in found.largest]) == (
        2,
        ["pillow 12.0.0", "six 1.17.0"],
    )
    assert found.largest[0][1] == 95_000 + len(records["pillow-12.0.0.dist-info"])
    assert found.bytes == sum(files.values()) + sum(map(len, records.values()))
    assert str(found) == "pillow 12.0.0 (92.8 KiB), six 1.17.0 (343 bytes)"


def test_node_packages_are_told_with_scope_and_version(tmp_path: Path) -> None:
    root = layer(tmp_path, node_modules__a__index=400, node_modules__a__node_modules__b__x=100)
    layer(root, **{"node_modules__@s__c__index": 300, "node_modules__.bin__t": 9})
    (root / "node_modules/a/package.json").write_text('{"version": "1.2.3"}')
    (root / "node_modules/@s/c/package.json").write_text("[")
    (root / "node_modules/@s/d").mkdir()
    (root / "node_modules/@s/d/package.json").write_text('{"version": 4}')
    found = look(root)
    assert found.count == 2
    assert found.largest == (("a 1.2.3", 520), ("@s/d", 14))


def test_only_the_largest_are_named_and_the_others_counted() -> None:
    found = Installed(10**9, 9, (("a 1", 5 << 20), ("b 2", 3 << 20)))
    assert str(found) == "a 1 (5.0 MiB), b 2 (3.0 MiB) and 7 more"


def test_what_an_installation_plants_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine.py,,\n")
    root = site(tmp_path / "layer", {"a-1.dist-info": ""}, {"mine.py": 4_000})
    (root / SITE / "a-1.dist-info/RECORD").unlink()
    (root / SITE / "a-1.dist-info/RECORD").symlink_to(secret)
    (root / SITE / "b-2.dist-info").symlink_to(tmp_path)
    (root / SITE / "loop").symlink_to(".")
    os.mkfifo(root / SITE / "pipe")
    (root / SITE / "c-3.dist-info").mkdir()
    os.mkfifo(root / SITE / "c-3.dist-info/RECORD")
    found = look(root)
    assert found.bytes == 4_000
    assert dict(found.largest).get("a 1") == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".hearth").symlink_to(root / ".hearth")
    assert look(tmp_path / "other") == Installed()


def test_the_limit_counts_the_code_too_and_is_exact() -> None:
    left = Installed(VERSION_BYTES_MAX - 10, 1, (("a 1", VERSION_BYTES_MAX - 10),))
    check_size(10, left)
    with pytest.raises(
        BuildFailed, match=r"at most 250\.0 MiB .* a 1 250\.0 MiB, the code itself 11"
    ):
        check_size(11, left)
    with pytest.raises(BuildFailed, match=r"the largest: the code itself 300\.0 MiB"):
        check_size(300 << 20, Installed())


# --- why it failed, in words that pip 26 and npm 11 printed

NPM_GIT = """\
npm error code ENOENT
npm error syscall spawn git
npm error path git
npm error errno -2
npm error enoent An unknown git error occurred
"""
WHEEL = """\
Collecting uwsgi
  error: subprocess-exited-with-error
    Exception: you need a C compiler to build uWSGI
    gcc: command not found
  ERROR: Failed building wheel for uwsgi
error: failed-wheel-build-for-install
× Failed to build installable wheels for some pyproject.toml based projects
╰─> uwsgi
"""
GYP = """\
npm error code 1
npm error path /out/tmp/src/node_modules/@s/native
npm error command failed
npm error command sh -c node-gyp rebuild
npm error gyp ERR! find Python Python is not set from command line or npm configuration
"""
NOT_THERE = """\
npm error code E404
npm error 404 Not Found - GET index/nowhere - Not found
npm error 404
npm error 404  'nowhere@9' is not in this registry.
"""
AWAY = """\
npm error code EHOSTUNREACH
npm error syscall connect
npm error errno EHOSTUNREACH
npm error request to index/@own%2flib failed, reason: connect EHOSTUNREACH 192.0.2.99:9
"""
LOCK = """\
npm error code EUSAGE
npm error
npm error `npm ci` can only install packages when your package.json and lock are in sync.
npm error
npm error Invalid: lock file's is-number@6.0.0 does not satisfy is-number@7.0.0
"""


@pytest.mark.parametrize(
    ("tool", "text", "says"),
    [
        ("npm", NPM_GIT, "a dependency is a git repository"),
        ("pip", WHEEL, "uwsgi would have to be compiled: use a release that has a wheel"),
        ("npm", GYP, "@s/native would have to be compiled"),
        ("npm", NOT_THERE, "'nowhere@9' is not in this registry"),
        ("npm", AWAY, "request to index/@own%2flib failed, reason: connect EHOSTUNREACH"),
        ("npm", LOCK, "npm ci` can only install packages when"),
        ("pip", "ERROR: No matching distribution found for x==9\n", "No matching distribution"),
        ("pip", "nothing known", "pip exit status 1"),
    ],
)
def test_the_reason_names_the_package_and_what_to_do(tool: str, text: str, says: str) -> None:
    line, _ = why(f"{tool} install", 1, text)
    assert says in line
    assert "\n" not in line


def test_an_installation_that_was_killed_says_so() -> None:
    assert "needs more memory" in why("pip install", 137, "")[0]


@pytest.mark.parametrize(
    "text", ["Collecting x\n", "╰─> a, ", "ERROR: Cannot install ", "gcc \n", " "]
)
def test_a_log_made_to_be_slow_to_read_is_not(text: str) -> None:
    began = time.process_time()
    for end in ("", "error: ", "DO NOT MATCH THE HASHES"):
        why("pip install", 1, end + text * (BUILD_LOG_BYTES_MAX // len(text)) + end)
    assert time.process_time() - began < 20
