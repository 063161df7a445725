"""`model.profile`: what all deployments of a chain can do, in LangChain's words and for LangChain's own readers."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.language_models import ModelProfile
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from llm_fallback import build_chat_model
from llm_fallback.plan.profiles import common
from llm_fallback.testing import FakeServer, Reply

CLAUDE = {"model": "anthropic/claude-sonnet-4-5", "api_key": "k"}
GPT = {"model": "openai/gpt-4.1", "api_key": "k"}
LLAMA = {
    "backend": "vllm",
    "model": "meta-llama/Llama-3.3-70B-Instruct",
    "api_base": "http://gpu",
    "context_window": 32768,
    "profile": {"tool_calling": True, "image_inputs": False},
}
UNKNOWN = {"backend": "vllm", "model": "own", "api_base": "http://gpu"}


def profile_of(chain: Any, **deployments: Any) -> Any:
    """The profile of a chain: tiers, or a whole chain."""
    chain = chain if isinstance(chain, dict) else {"tiers": chain}
    return build_chat_model({"deployments": deployments, "chains": {"main": chain}}).profile


KEYS = {
    "max_input_tokens": st.integers(1, 9),
    "tool_calling": st.booleans(),
    "reasoning_effort_levels": st.lists(st.sampled_from(["low", "medium", "high"]), unique=True),
    "reasoning_effort_default": st.sampled_from(["low", "high"]),
}
PROFILES = st.lists(st.fixed_dictionaries({}, optional=KEYS), min_size=1, max_size=5)


class TestWhatHoldsForAll:
    @given(PROFILES)
    def test_a_chain_promises_nothing_one_of_its_deployments_does_not_say(self, profiles):
        """Numbers are no larger, lists no longer, and a capability is one of all."""
        for word, value in common(profiles).items():
            for own in profiles:
                match value:
                    case False:
                        assert any(other.get(word) is False for other in profiles)
                    case True | str():
                        assert own[word] == value
                    case list():
                        assert set(value) <= set(own[word])
                    case int():
                        assert value <= own[word]

    @given(PROFILES)
    def test_what_all_say_is_said_and_a_lack_is_a_lack(self, profiles):
        """Nothing that is known of all is kept back; False is said if one says it, also beside the unknown."""
        whole = common(profiles)
        said = set.intersection(*(set(own) for own in profiles))
        assert {word for word in said if word != "reasoning_effort_default"} <= set(whole)
        assert (whole.get("tool_calling") is False) == any(own.get("tool_calling") is False for own in profiles)

    @given(PROFILES, st.randoms())
    def test_the_order_of_deployments_does_not_show(self, profiles, random):
        """But in the order of lists."""
        turned = random.sample(profiles, len(profiles))
        assert {**common(profiles), "reasoning_effort_levels": 0} == {**common(turned), "reasoning_effort_levels": 0}

    @given(PROFILES)
    def test_of_one_deployment_it_is_that_ones(self, profiles):
        """A chain of one is that model."""
        assert common(profiles[:1]) == profiles[0]


class TestSources:
    def test_litellms_list_says_what_the_spec_does_not(self):
        """The smaller window, and what both can."""
        profile = profile_of(["claude", "gpt"], claude=CLAUDE, gpt=GPT)
        assert profile["max_input_tokens"] == 200_000
        assert profile["max_output_tokens"] == 32_768
        assert profile["tool_calling"] is profile["image_inputs"] is profile["structured_output"] is True

    def test_base_model_says_what_is_served(self):
        """Under a name of one's own litellm's list is read by that."""
        azure = {"model": "azure/prod-41", "base_model": "gpt-4.1", "api_key": "k", "api_base": "https://x.invalid"}
        assert (
            profile_of(["azure"], azure=azure)["max_input_tokens"] == profile_of(["gpt"], gpt=GPT)["max_input_tokens"]
        )

    def test_what_the_spec_declares_goes_before_the_list(self):
        """A profile's own window before `context_window`, that before litellm's."""
        told = {**CLAUDE, "context_window": 9000, "profile": {"tool_calling": False}}
        assert profile_of(["a"], a=told)["max_input_tokens"] == 9000
        assert profile_of(["a"], a=told)["tool_calling"] is False
        assert profile_of(["a"], a=told)["image_inputs"] is True
        narrow = {**told, "profile": {"max_input_tokens": 8000}}
        assert profile_of(["a"], a=narrow)["max_input_tokens"] == 8000

    def test_a_window_told_in_the_profile_alone_is_the_deployments(self):
        """A prompt too long for another is not sent there."""
        wide, narrow = {"context_window": 100}, {"profile": {"max_input_tokens": 50}}
        with FakeServer({"a": Reply("x"), "b": "y"}) as server:
            model = build_chat_model(server.spec(deployments={"a": wide, "b": narrow}))
            catalogue, targets = model.runtime.engine.catalogue, model.runtime.plan.targets
            assert [catalogue.context_window(targets[name]) for name in ("a", "b")] == [100, 50]

    def test_one_unknown_leaves_the_window_open_but_not_a_lack(self):
        """An absent key is LangChain's word for not known; None, when nothing is known of all."""
        assert profile_of(["llama", "own"], llama=LLAMA, own=UNKNOWN) == {"image_inputs": False}
        assert profile_of(["own"], own=UNKNOWN) is None

    def test_windows_of_on_context_window_do_not_count_but_their_abilities_do(self):
        """They are there for what is beyond the window; a call with tools may come to them all the same."""
        chain = {"tiers": ["llama"], "on_context_window": ["long"]}
        for window in ({}, {"context_window": 5}):
            profile = profile_of(chain, llama=LLAMA, long={**UNKNOWN, **window, "profile": {"tool_calling": False}})
            assert profile == {"max_input_tokens": 32768, "tool_calling": False, "image_inputs": False}

    def test_deployments_of_on_content_policy_count_in_full(self):
        """They answer prompts of every length."""
        chain = {"tiers": ["claude"], "on_content_policy": ["llama"]}
        assert profile_of(chain, claude=CLAUDE, llama=LLAMA)["max_input_tokens"] == 32768

    def test_deployments_out_of_rotation_do_not_count(self):
        """Nobody asks them."""
        assert profile_of(["a", "b"], a=LLAMA, b={**UNKNOWN, "weight": 0})["max_input_tokens"] == 32768

    def test_its_words_are_langchains(self):
        """LangChain warns of any other, and would read none."""
        profile = profile_of(["claude"], claude=CLAUDE)
        assert set(profile) <= set(get_type_hints(ModelProfile))


class TestOfAModel:
    SPEC = {
        "deployments": {"claude": CLAUDE, "llama": LLAMA},
        "chains": {"good": {"tiers": ["claude"]}, "safe": {"tiers": ["claude", "llama"]}},
        "default_chain": "good",
    }

    def test_it_follows_the_chain(self):
        """Through with_chain and reload, and is shared by what is bound."""
        model = build_chat_model(self.SPEC)
        assert model.profile["max_input_tokens"] == model.bind(temperature=0).profile["max_input_tokens"] == 200_000
        assert model.with_chain("safe").profile["max_input_tokens"] == 32768
        assert model.with_chain("safe").with_chain("good").profile["max_input_tokens"] == 200_000
        narrow = {**self.SPEC, "deployments": {"claude": {**CLAUDE, "context_window": 1000}, "llama": LLAMA}}
        model.reload(narrow)
        assert model.profile["max_input_tokens"] == 1000

    def test_what_is_given_at_build_wins(self):
        """On every chain and copy: it is a field of the model."""
        model = build_chat_model(self.SPEC, profile={"max_input_tokens": 77})
        for own in (model, model.with_chain("safe"), model.model_copy()):
            assert own.profile == {"max_input_tokens": 77}

    def test_a_model_whose_profile_nobody_asked_for_is_as_complete_as_another(self):
        """It shows, compares, copies and configures like one that has its profile at hand."""
        model = build_chat_model(self.SPEC)
        assert "profile" not in model.model_dump()
        assert "chain='good'" in repr(model)
        assert model.model_copy() == model
        configured = model.with_config(tags=["x"])
        assert configured.profile == model.profile


class TestForLangChain:
    def test_summarising_middleware_sizes_to_the_smallest_window(self):
        """A history that the large deployment would take is summarised because the small one would not."""
        windows = {"a": {"context_window": 100_000}, "b": {"context_window": 1000}}
        history = [HumanMessage("word " * 600), AIMessage("word " * 600), HumanMessage("And now?")]
        with FakeServer({"a": ["In short: words.", "Now this."], "b": "x"}) as server:
            model = build_chat_model(server.spec(deployments=windows))
            middleware = SummarizationMiddleware(model=model, trigger=("fraction", 0.5), keep=("messages", 1))
            state = create_agent(model, [], middleware=[middleware]).invoke({"messages": history})
            first, second = server.received("a")
        assert len(str(first.body["messages"])) > 3000
        assert len(str(second.body["messages"])) < 1000
        assert "In short: words." in str(second.body["messages"])
        assert state["messages"][-1].content == "Now this."

    def test_summarising_middleware_asks_for_a_profile_where_a_window_is_not_known(self):
        """Rather than size to a guess; it says how to give one."""
        with FakeServer({"a": "x", "b": "x"}) as server:
            spec = server.spec(deployments={"a": {"context_window": 1000}})
            with pytest.raises(ValueError, match="profile"):
                SummarizationMiddleware(model=build_chat_model(spec), trigger=("fraction", 0.5))
            told = build_chat_model(spec, profile={"max_input_tokens": 1000})
            SummarizationMiddleware(model=told, trigger=("fraction", 0.5))

    @pytest.mark.parametrize(("second", "sent"), [(True, "response_format"), (False, "tools"), (None, "tools")])
    def test_an_agent_asks_for_structured_output_as_all_deployments_can(self, second, sent):
        """Natively if each is known to, by a tool otherwise: what an agent sends, any of them can take."""

        class Weather(BaseModel):
            """The weather."""

            sky: str

        own = {} if second is None else {"structured_output": second}
        profiles = {"a": {"profile": {"structured_output": True}}, "b": {"profile": own}}
        with FakeServer({"a": Reply(None), "b": Reply(None)}) as server:
            agent = create_agent(build_chat_model(server.spec(deployments=profiles)), [], response_format=Weather)
            state = agent.invoke({"messages": [HumanMessage("Oslo?")]})
            (received,) = server.received("a")
        assert isinstance(state["structured_response"], Weather)
        assert sent in received.body
