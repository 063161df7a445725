"""Reasoning between a model's own tags, told from the text in whatever parts it comes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.think_tags import ThinkTagParser


def split(*parts: str) -> tuple[str, str]:
    parser = ThinkTagParser()
    said = [*(parser.split(part) for part in parts[:-1]), parser.split("".join(parts[-1:]), is_last=True)]
    return "".join(text for text, _ in said), "".join(reasoning for _, reasoning in said)


SAID = {
    "<think>hm</think>so be it": ("so be it", "hm"),
    "<thinking>hm</thinking>so be it": ("so be it", "hm"),
    "<think>\na < b\n</think>\n\nyes": ("\n\nyes", "\na < b\n"),
    "<think></think>yes": ("yes", ""),
    "<think>hm</think>": ("", "hm"),
    "<think>it breaks off": ("", "it breaks off"),
    "<think>hm</thi": ("", "hm</thi"),
    "<thin": ("<thin", ""),
    "so <think>is what</think> it says": ("so <think>is what</think> it says", ""),
    "<p>so</p>": ("<p>so</p>", ""),
    "": ("", ""),
}


@pytest.mark.parametrize("said", SAID)
def test_a_tag_at_the_beginning_is_one(said):
    """Nowhere else; and what follows the closing one is text as it stands."""
    assert split(said) == split(*said) == SAID[said]


@given(st.sampled_from(sorted(SAID)), st.lists(st.integers(0, 40), max_size=5))
def test_where_the_parts_end_makes_no_difference(said, cuts):
    """Servers cut between and within the tags."""
    places = [0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]
    assert split(*(said[start:end] for start, end in pairwise(places))) == SAID[said]


def test_text_without_a_tag_is_not_held_back():
    """The first word is shown as it comes."""
    assert ThinkTagParser().split("Two") == ("Two", "")


def test_reasoning_is_held_back_only_where_it_may_be_the_closing_tag():
    """As far as it may be."""
    parser = ThinkTagParser()
    assert parser.split("<think>") == ("", "")
    assert parser.split("hm") == ("", "hm")
    assert parser.split(" so</thi") == ("", " so")
    assert parser.split("s</think>") == ("", "</this")
    assert parser.split("yes") == ("yes", "")


def test_what_comes_behind_the_last_part_stands_alone():
    """Some servers go on behind a finish; what was held back is not told again."""
    for first, told in (("<th", ("<th", "")), ("<think>hm</thi", ("", "hm</thi"))):
        parser = ThinkTagParser()
        assert parser.split(first, is_last=True) == told
        assert sum(map(len, parser.split("more"))) == len("more")
