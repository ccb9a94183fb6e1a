"""Empties the folders in which a function may write."""

from __future__ import annotations

from os import chmod, rename, rmdir, scandir, unlink

FOLDERS = ("/tmp", "/dev/shm")
ENTRIES_MAX = 200_000  # in one folder, or the function filled it to keep us busy


class NotEmptied(Exception):
    """There is more than can be removed in a bounded time, or something that cannot be."""


def empty(folder: str) -> None:
    """Remove everything in a folder that nobody else writes to; NotEmptied when that fails.

    However deep a tree is: each directory's own directories are moved to the top, so no path
    grows. No symbolic link is followed.
    """
    seen = 0
    try:
        while entries := listed(folder):
            for path, is_folder in entries:
                seen = flatten(folder, path, seen) if is_folder else seen
                (rmdir if is_folder else unlink)(path)
                seen += 1
            if seen > ENTRIES_MAX:
                raise NotEmptied(f"{folder} has more than {ENTRIES_MAX} entries")
    except FileNotFoundError:
        return  # the folder itself: this sandbox has none
    except OSError as error:
        raise NotEmptied(f"{folder} cannot be emptied: {error}") from None


def listed(folder: str) -> list[tuple[str, bool]]:
    """Every entry's path, and whether it is a directory itself."""
    with scandir(folder) as found:
        return [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in found]


def flatten(top: str, folder: str, seen: int) -> int:
    """Remove a directory's files and move its directories to the top; how many were seen."""
    chmod(folder, 0o700)
    for path, is_folder in listed(folder):
        seen += 1
        if seen > ENTRIES_MAX:
            raise NotEmptied(f"{top} has more than {ENTRIES_MAX} entries")
        if is_folder:
            chmod(path, 0o700)  # its `..` is about to change
            rename(path, f"{top}/.hearth-{seen}")
        else:
            unlink(path)
    return seen
