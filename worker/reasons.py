"""Why an installation failed: one line for the version that names the package and what to do,
from what pip and npm printed."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LENGTH_MAX = 500
_M = re.MULTILINE
_TOOL = r"\b(?:gcc|g\+\+|cc|clang|rustc|cargo|make|cmake|pkg-config|gfortran|meson|ninja)\b"
_ABSENT = r"(?:No such file or directory|not found|not installed|can.t be found|Unknown compiler)"
_COMPILER = re.compile(
    rf"{_TOOL}.{{0,60}}{_ABSENT}|{_ABSENT}.{{0,60}}{_TOOL}|Unknown compiler\(s\)"
    r"|Could not find any (?:Python|Visual Studio)|gyp ERR! find Python",
    re.IGNORECASE,
)
_MARKS = r"ERROR: |error: |npm (?:error|ERR!) |(?=\S+\.dart:\d+:\d+: Error: )|(?=Because \S)"
_ERROR = re.compile(rf"^(?:{_MARKS})(?P<says>.*\S)")
_EMPTY = re.compile(
    r"ResolutionImpossible|for help visit|^code E?[A-Z0-9]+$|A complete log of|^\d+$"
)
_HINTS = {
    "pip": "use a release that has a wheel for this runtime, or ship the package with the code",
    "npm": "use a release that has a prebuilt binary for this runtime, or one without native code",
}

# What failed to be built, in pip's several words for it and as the path that npm names.
_UNBUILT = (
    re.compile(r"Failed building wheel for (?P<name>[\w.-]+)"),
    re.compile(r"Failed to build '?(?P<name>[\w.-]+)'? when"),
    re.compile(r"╰─> (?P<name>[A-Za-z0-9][\w.-]*(?:, [\w.-]+)*)$", _M),
    re.compile(r"^npm (?:error|ERR!) path .*node_modules/(?P<name>(?:@[^/\s]+/)?[^/\s]+)$", _M),
)
_GIT = re.compile(r"spawn git|Cannot find command 'git'|syscall spawn git")
_CONFLICT = re.compile(r"^ERROR: (?P<says>Cannot install .* conflicting dependencies)", _M)
_CAUSES = re.compile(r"^The conflict is caused by:\n(?P<lines>(?:[ \t]+\S.*\n?){1,6})", _M)
_FROM = re.compile(r"\s+(?P<name>\S+) from ")
_AT_WORK = re.compile(r"(?:Collecting|Processing) (?P<name>\S+)")
_NOT_THERE = re.compile(
    r"^npm (?:error|ERR!) 404 +(?P<says>'[^']+' is not in this registry|The requested .*\S)", _M
)
_NO_VERSION = re.compile(r"^npm (?:error|ERR!) notarget (?P<says>No matching version .*\S)", _M)
_AWAY = re.compile(r"^npm (?:error|ERR!) (?P<says>request to \S+ failed, reason: .*\S)", _M)
_PEERS = re.compile(r"^npm (?:error|ERR!) ERESOLVE (?P<says>.*\S)", _M)
_WANTED = re.compile(r"^npm (?:error|ERR!) +(?P<says>(?:peer|peerOptional|dev)? ?\S+@\".*\S)", _M)


def why(said: str, status: int, text: str) -> tuple[str, str]:
    """(one line for the version, a hint for the log or nothing). `said` is the command, `text` the
    log of it."""
    tool = said.split(maxsplit=1)[0]
    if status == 137:
        return f"installing the dependencies was killed ({tool} needs more memory?)", ""
    known = next(_known(tool, text), None) if tool in _HINTS else None
    if known is not None:
        line, hint = known
        return f"installing the dependencies failed: {line}"[:_LENGTH_MAX], hint
    told = "; ".join(_errors(tool, text))
    what = "compiling the function" if tool == "dart" else "installing the dependencies"
    return f"{what} failed ({tool} exit status {status}): {told}"[:_LENGTH_MAX], ""


def _known(tool: str, text: str) -> Iterator[tuple[str, str]]:
    """What is recognised, the surest first."""
    if conflict := _CONFLICT.search(text):
        causes = _CAUSES.search(text)
        lines = [line.strip() for line in causes["lines"].splitlines()] if causes else []
        yield "; ".join([conflict["says"], *lines]), "ask for versions that go together"
    if _GIT.search(text):
        yield (
            "a dependency is a git repository, and there is no git where dependencies are "
            "installed; name a release, or an archive of the commit, instead",
            "",
        )
    if _COMPILER.search(text):
        yield (
            f"{_unbuilt(text)} would have to be compiled: {_HINTS[tool]}",
            (f"there is no compiler where dependencies are installed; {_HINTS[tool]}"),
        )
    if (name := _wrong_hash(text)) is not None:
        yield f"{name} is not the file whose hash the list names", ""
    for pattern in (_NOT_THERE, _NO_VERSION, _AWAY):
        if found := pattern.search(text):
            yield found["says"], ""
    if peers := _PEERS.search(text):
        wanted = [match["says"].strip() for match in _WANTED.finditer(text)]
        yield (
            "; ".join([f"ERESOLVE {peers['says']}", *wanted[:3]]),
            ("ask for versions that go together, or lock what you have tried"),
        )


def _unbuilt(text: str) -> str:
    for pattern in _UNBUILT:
        if found := pattern.search(text):
            return found["name"]
    return _at_work(text)


def _at_work(text: str) -> str:
    """What pip was about when the first error came: it may know no better name yet."""
    name = "a package"
    for line in text.splitlines():
        if found := _AT_WORK.match(line.strip()):
            name = found["name"]
        elif line.lstrip().startswith("error: "):
            break
    return name


def _wrong_hash(text: str) -> str | None:
    lines = iter(text.splitlines())
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        names = (found["name"] for line in lines if (found := _FROM.match(line)))
        return next(names, "a package").rstrip(":")
    return None


def _errors(tool: str, text: str) -> list[str]:
    """The lines that say it: pip's last, npm's first."""
    lines = [match["says"] for line in text.splitlines() if (match := _ERROR.match(line))]
    telling = [line for line in lines if not _EMPTY.search(line)] or lines
    return telling[-1:] if tool == "pip" else telling[:2]
