"""A model in the hand of who operates it: what it shows of itself, and its breakers opened and closed by hand."""

from __future__ import annotations

import logging
from html.parser import HTMLParser

import pytest

from llm_fallback import SpecError, build_chat_model
from llm_fallback.errors import ChainExhausted
from llm_fallback.testing import Fail, fake_chat_model

KEY = "sk-canary-1234567890"
NASTY = "<script>alert(1)</script>"
TWO_TIERS = {
    "deployments": {
        "own": {"backend": "vllm", "model": "Qwen/Qwen3-32B", "api_base": "http://gpu:8000", "api_key": KEY},
        "hosted": {"model": "anthropic/claude-sonnet-4-5", "params": {"extra_headers": {"X-Secret": KEY}}},
        NASTY: {"model": "openai/gpt-4.1"},
    },
    "chains": {"main": {"tiers": [["own", "hosted"], NASTY]}, "other": {"tiers": ["own"]}},
    "default_chain": "main",
}


class Cells(HTMLParser):
    """The texts of a table's cells, row by row, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data):
        if self.rows:
            self.rows[-1].append(data)


def test_a_model_says_its_chain_its_tiers_and_who_is_not_asked_now():
    """Nothing of its settings, which may be secrets, and not litellm's module."""
    model = fake_chat_model({"own": Fail(429, retry_after=60), "hosted": "hello"}, spec={**TWO_TIERS})
    assert repr(model) == f"FakeChatModel(chain='main', tiers=[['own', 'hosted'], ['{NASTY}']])"
    model.open_breaker("own", 60)
    assert repr(model.with_chain("other")) == (
        "FakeChatModel(chain='other', tiers=[['own']], breakers={'own': 'open'})"
    )


def test_the_real_model_says_the_same_and_no_key():
    """Its repr is in many a log."""
    with build_chat_model(TWO_TIERS, temperature=0) as model:
        for shown in (repr(model), str(model), model._repr_html_()):
            assert KEY not in shown
            assert "gpu:8000" not in shown
        assert str(model) == repr(model)
        assert repr(model).startswith("FallbackChatModel(chain='main', tiers=[['own', 'hosted'], [")


def test_a_notebook_shows_the_chain_as_a_table():
    """A row for each deployment, tier by tier; a name is text, whatever is in it."""
    model = fake_chat_model(spec=TWO_TIERS)
    model.open_breaker("hosted", 30)
    table = Cells(model._repr_html_())
    assert table.tags == {"table", "caption", "tr", "th", "td"}
    assert [row[:4] for row in table.rows[1:]] == [
        ["1", "own", "Qwen/Qwen3-32B", "closed"],
        ["1", "hosted", "anthropic/claude-sonnet-4-5", "open, 30 s"],
        ["2", NASTY, "openai/gpt-4.1", "closed"],
    ]
    assert [row[5] for row in table.rows[1:]] == ["-", "-", "-"]


class TestByHand:
    def test_a_deployment_that_is_taken_out_is_not_asked_until_its_time_is_over(self, caplog):
        """In every copy of the model; then one request finds out."""
        model = fake_chat_model({"a": "from a", "b": "from b"})
        copy = model.bind(temperature=0)
        model.open_breaker("a", 30)
        reply = copy.invoke("hi")
        assert (reply.text, reply.response_metadata["llm_fallback"]["skipped"]) == (
            "from b",
            [{"deployment": "a", "reason": "breaker_open", "retry_in_s": 30.0}],
        )
        model.clock.advance(30)
        assert (model.state()["a"]["breaker"], model.invoke("hi").text) == ("half_open", "from a")
        assert model.state()["a"]["breaker"] == "closed"
        assert (caplog.records[0].levelno, caplog.records[0].getMessage()) == (
            logging.WARNING,
            "the breaker of a was opened by hand for 30 s",
        )

    def test_where_all_are_taken_out_nobody_is_asked_before_the_first_time_is_over(self):
        """A call waits for it where it fits in `total_s`, and otherwise ends without a request."""
        model = fake_chat_model({"a": "from a", "b": "from b"}, timeout=20)
        model.open_breaker("a", 10)
        model.open_breaker("b", 60)
        assert (model.invoke("hi").text, model.clock.now()) == ("from a", pytest.approx(10))
        model.open_breaker("a", 600)
        model.open_breaker("b", 600)
        with pytest.raises(ChainExhausted):
            model.invoke("hi")
        assert len(model.received()) == 1

    def test_a_deployment_that_is_well_again_is_asked_at_once(self):
        """Without waiting for the cooldown; what was counted against it is forgotten."""
        model = fake_chat_model({"a": [Fail(401), "well again"], "b": "from b"})
        assert (model.invoke("hi").text, model.invoke("hi").text) == ("from b", "from b")
        model.reset_breaker("a")
        assert model.state()["a"]["failures"] == 0
        assert model.invoke("hi").text == "well again"

    async def test_a_call_that_waits_is_woken_by_a_reset(self):
        """Nobody looks at the clock before."""
        model = fake_chat_model({"a": "from a"})
        model.open_breaker("a", 10)
        model.reset_breaker("a")
        assert ((await model.ainvoke("hi")).text, model.clock.now()) == ("from a", 0)

    def test_a_breaker_that_is_off_is_opened_by_hand_all_the_same(self):
        """`off` says that failures open nothing; an operator does."""
        model = fake_chat_model(spec={**TWO_TIERS, "defaults": {"breaker": "off"}}, chain="other")
        model.open_breaker("own", 5)
        assert (model.invoke("hi").response_metadata["llm_fallback"]["deployment"], model.clock.now()) == ("own", 5)
        assert model.state()["own"]["breaker"] == "closed"

    @pytest.mark.parametrize("for_s", [0, -1, float("inf"), float("nan"), "a minute", True])
    def test_a_time_that_is_none_is_named(self, for_s):
        """As is a deployment that there is not."""
        model = fake_chat_model({"a": "hi"})
        with pytest.raises(SpecError, match=r"open_breaker\(for_s\): must be a number of seconds above 0, got"):
            model.open_breaker("a", for_s)
        for act in (lambda: model.reset_breaker("aa"), lambda: model.open_breaker("aa", 5)):
            with pytest.raises(SpecError, match="no deployment is called 'aa'; did you mean 'a'"):
                act()
