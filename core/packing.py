"""`include` and `exclude` of hearth.toml: which patterns are taken. What they match is decided
where a directory is packed; bounds here keep that quick whoever wrote them."""

from __future__ import annotations

from collections.abc import Sequence

from core.limits import PACK_PATTERN_LENGTH_MAX, PACK_PATTERNS_MAX, PACK_STARS_MAX

FIELDS = ("include", "exclude")


def check_patterns(patterns: Sequence[str]) -> None:
    """ValueError that says which pattern cannot be, and why."""
    if len(patterns) > PACK_PATTERNS_MAX:
        raise ValueError(f"at most {PACK_PATTERNS_MAX} patterns are taken")
    for pattern in patterns:
        shown = ascii(pattern[:64])
        if len(pattern) > PACK_PATTERN_LENGTH_MAX:
            raise ValueError(f"{shown}… is over {PACK_PATTERN_LENGTH_MAX} characters")
        if not pattern.strip().strip("!/") or not pattern.isprintable():
            raise ValueError(f"{shown} is no pattern")
        parts = pattern.removeprefix("!").split("/")
        if ".." in parts:
            raise ValueError(f"{shown} leads out of the directory")
        if any(part.count("*") > PACK_STARS_MAX for part in parts) or (
            pattern.count("**") > PACK_STARS_MAX
        ):
            raise ValueError(f"{shown} has more than {PACK_STARS_MAX} stars in one part")
