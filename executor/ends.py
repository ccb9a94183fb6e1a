"""Why versions have no seat: remembered for the next cold start, which tells it."""

from __future__ import annotations

from core.limits import ENDS_REMEMBERED_MAX
from core.model import Version


class Ends:
    """The last reason of each version and function, for as many as ENDS_REMEMBERED_MAX."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}  # by version id and function id, oldest first

    def note(self, version: Version, why: str) -> None:
        """A seat of the version ended, or was begun."""
        for key in (version.function_id, version.id):
            self._known.pop(key, None)
            self._known[key] = why
        while len(self._known) > ENDS_REMEMBERED_MAX:
            del self._known[next(iter(self._known))]

    def of(self, version: Version) -> str:
        """Why a version without a seat has none."""
        known = self._known.get(version.id)
        if known is not None:
            return known
        return "new_version" if version.function_id in self._known else "first_call"
