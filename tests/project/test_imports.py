"""What loading thousands of modules at once does to Python's garbage collector: nothing that lasts."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from llm_fallback._imports import collecting_later


class Node:
    """An object that refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    was_on = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if was_on else gc.disable)()


def generation_of(node: object) -> int:
    return next(age for age in range(3) if any(own is node for own in gc.get_objects(age)))


def test_nothing_is_collected_meanwhile_and_all_is_again_afterwards():
    """However much comes to be; garbage made on the way goes like any other, later."""
    gc.enable()
    with collecting_later():
        assert not gc.isenabled()
        lost = weakref.ref(Node())
        kept = [[] for _ in range(10 * gc.get_threshold()[0])]
        assert lost() is not None
    assert gc.isenabled()
    assert kept
    gc.collect()
    assert lost() is None


def test_what_was_loaded_is_old_at_once():
    """Else the next look at what is young goes through all of it."""
    with collecting_later():
        loaded = Node()
    assert generation_of(loaded) == 2
    assert gc.get_freeze_count() == 0


def test_a_collector_that_was_off_stays_off():
    """Somebody turned it off on purpose; and of two loads, one in the other, only the outer one turns it on."""
    gc.disable()
    with collecting_later():
        pass
    assert not gc.isenabled()
    gc.enable()
    with collecting_later():
        with collecting_later():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_somebody_froze_stays_frozen():
    """A server that freezes before it forks keeps that memory shared."""
    frozen = Node()
    gc.freeze()
    with collecting_later():
        loaded = Node()
    assert gc.get_freeze_count() > 0
    assert not any(own is frozen for own in gc.get_objects())
    assert generation_of(loaded) < 2


def test_a_load_that_fails_leaves_the_collector_on():
    """An ImportError must not cost the process its collector."""
    gc.enable()
    with pytest.raises(ImportError), collecting_later():
        raise ImportError
    assert gc.isenabled()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["build_chat_model", "fallback_chain", "testing.fake_chat_model"])
def test_a_first_use_of_the_package_collects_nothing_on_its_way(name):
    """litellm and LangChain are a million objects: a quarter of the wait went into looking at them again and again."""
    program = f"""
import gc, json, llm_fallback, llm_fallback.testing
gc.collect()
before = [own["collections"] for own in gc.get_stats()]
llm_fallback.{name}
print(json.dumps([gc.get_stats()[age]["collections"] - was for age, was in enumerate(before)]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert sum(json.loads(done.stdout)) <= 1
