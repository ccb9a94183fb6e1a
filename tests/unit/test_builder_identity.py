"""Who built: known to be dead only where that can be known."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from worker.identity import builder_name, is_dead
from worker.main import Rarely, worn


def test_a_builder_is_not_dead_to_itself_nor_to_another_node() -> None:
    me = builder_name("node-1")
    assert not is_dead(me, me=me)
    assert not is_dead("node-2:1:1:abc", me=me)
    assert not is_dead("node-10:1:1:abc", me=me)
    assert not is_dead("", me=me)
    assert not is_dead("nonsense", me=me)


def test_a_builder_of_this_node_is_dead_when_its_process_is_gone_or_another() -> None:
    me = builder_name("node-1")
    assert is_dead("node-1:999999999:1:abc", me=me)
    assert is_dead("node-1:1:0:abc", me=me), "the id is used again by a younger process"
    assert is_dead(builder_name("node-1"), me=me), "an earlier start of this very process"


def test_a_living_builder_of_this_node_is_not_dead() -> None:
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    assert os.getpid() != 1
    assert not is_dead(f"node-1:1:{started}:abc", me=builder_name("node-1"))


def test_a_process_that_holds_too_much_is_worn() -> None:
    assert not worn(60 << 20, 20)
    assert worn(300 << 20, 20)
    assert worn(60 << 20, 1000)


def complaint(text: str, at: float, level: int = logging.WARNING) -> logging.LogRecord:
    record = logging.LogRecord("x", level, "x", 1, text, None, None)
    record.created = at
    return record


def test_the_same_complaint_is_made_once_a_minute_and_another_at_once() -> None:
    rarely = Rarely()
    asked = [
        rarely.filter(complaint("away %s", 0)),
        rarely.filter(complaint("away %s", 30)),
        rarely.filter(complaint("away %s", 61)),
        rarely.filter(complaint("other", 62)),
        rarely.filter(complaint("away %s", 63)),
        rarely.filter(complaint("fine", 64, logging.INFO)),
        rarely.filter(complaint("fine", 64, logging.INFO)),
    ]
    assert asked == [True, False, True, True, True, True, True]
