"""Which chain a call asks: by its words, by its config, and where a config's word may be another's."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from llm_fallback import SpecError, build_chat_model
from llm_fallback.chat_model.runnables import fallback_chain
from llm_fallback.testing import FakeServer, fake_chat_model
from tests.asking import MODES, ask

WORLDS = pytest.mark.parametrize("world", ["real", "fake"])
CHAINS = {"main": {"tiers": ["a"]}, "cheap": {"tiers": ["b"]}, "other": {"tiers": ["c"]}}


@contextmanager
def model_of(world: str) -> Iterator[Any]:
    """A model of three chains, of one deployment each; `main` is asked unless another is named."""
    scripts = {"a": "main", "b": "cheap", "c": "other"}
    with FakeServer(scripts) as server:
        spec = {**server.spec(backend="vllm"), "chains": CHAINS, "default_chain": "main"}
        with build_chat_model(spec) if world == "real" else fake_chat_model(scripts, spec=spec) as model:
            yield model


def configured(**words: Any) -> dict[str, Any]:
    return {"configurable": words}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@WORLDS
@pytest.mark.parametrize("mode", MODES)
async def test_our_own_word_of_a_config_wins(world, mode, caplog):
    """Over `chain` there, whether that is a chain or not; a word of the call is nearer than either."""
    with model_of(world) as model:
        both = configured(llm_fallback_chain="cheap", chain="other")
        assert (await ask(model, mode, config=both)).text == "cheap"
        assert (await ask(model.with_config(both), mode)).text == "cheap"
        assert (await ask(model, mode, config=configured(llm_fallback_chain="cheap", chain="nope"))).text == "cheap"
        assert (await ask(model, mode, config=both, chain="main")).text == "main"
        assert (await ask(model, mode, config=configured(chain="other"))).text == "other"
    assert warnings(caplog) == []


@WORLDS
@pytest.mark.parametrize("mode", MODES)
async def test_a_chain_of_a_config_that_is_none_of_ours_is_ignored_with_one_warning(world, mode, caplog):
    """It may be the word of another step of the graph: the model's own chain answers, and one warning says so."""
    with model_of(world) as model:
        for asked in (model, model.with_config(configured(chain="chaep")), model.with_chain("main")):
            assert (await ask(asked, mode, config=configured(chain="chaep"))).text == "main"
    assert warnings(caplog) == [
        "configurable['chain'] is ignored: no chain is called 'chaep'; did you mean 'cheap'?",
    ]


@WORLDS
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("word", ["chain", "model", "llm_fallback_chain"])
async def test_a_name_that_is_said_to_us_must_be_one_of_ours(world, word, mode):
    """By a keyword of the call, or by our own word in a config: ValueError with the nearest."""
    with model_of(world) as model:
        for name in ("chaep", ["cheap"]):
            words = {"config": configured(llm_fallback_chain=name)} if word == "llm_fallback_chain" else {word: name}
            with pytest.raises(ValueError, match=r"no chain is called .*ch\w+p.*; did you mean 'cheap'"):
                await ask(model, mode, **words)


@WORLDS
def test_a_model_that_is_no_chain_is_told_what_the_word_means(world):
    """At build and in a call, by the argument that was written: elsewhere `model` is a provider's."""
    told = "model: no chain is called 'gpt-4.1', and `model` names a chain here; there are 'main', 'cheap', 'other'"
    with model_of(world) as model:
        with pytest.raises(ValueError, match=told):
            model.invoke("x", model="gpt-4.1")
        with pytest.raises(SpecError, match=told):
            build_chat_model(model.runtime.spec, model="gpt-4.1")


@WORLDS
def test_what_another_step_calls_a_chain_may_be_anything(world, caplog):
    """An object that could be no name is ignored, too; its kind is told, not what is in it."""
    with model_of(world) as model:
        for thing in ({"key": "sk-secret"}, RunnableLambda(str), 7):
            assert model.invoke("x", configured(chain=thing)).text == "main"
        assert model.invoke("x", configured(chain=None)).text == "main"
    text = "configurable['chain'] is ignored: a chain's name is a text, not of type"
    assert warnings(caplog) == [f"{text} dict", f"{text} RunnableLambda", f"{text} int"]
    assert "sk-secret" not in caplog.text


@WORLDS
def test_several_calls_at_once_warn_once(world, caplog):
    """Each word once, of all copies of a model and all its threads."""
    with model_of(world) as model:
        model.batch(["x"] * 20, configured(chain="chaep"))
        model.bind_tools([]).invoke("x", configured(chain="chaep"))
        model.invoke("x", configured(chain="othre"))
        assert len(warnings(caplog)) == 2


@WORLDS
@pytest.mark.parametrize("mode", MODES)
async def test_a_declared_runnable_heeds_the_same_words(world, mode, caplog):
    """And one on another chain forgets what a config had bound."""
    with model_of(world) as model:
        say = fallback_chain("{it}", model)
        ours = configured(llm_fallback_chain="cheap", chain="other")
        prompt = {"it": "x"}
        answers = [
            await answer(say, mode, prompt, config=ours),
            await answer(say, mode, prompt, config=configured(chain="chaep")),
            await answer(say.with_config(ours).with_chain("other"), mode, prompt),
        ]
    assert answers == ["cheap", "main", "other"]
    assert len(warnings(caplog)) == 1


async def answer(runnable: Any, mode: str, prompt: Any, **options: Any) -> str:
    if mode == "stream":
        return "".join(runnable.stream(prompt, **options))
    if mode == "astream":
        return "".join([part async for part in runnable.astream(prompt, **options)])
    return await ask(runnable, mode, prompt, **options)


@WORLDS
@pytest.mark.parametrize("mode", ["batch_file", "abatch_file"])
async def test_a_batch_heeds_the_same_words(world, mode, tmp_path, caplog):
    """Said in the call, in its config, or in a config that is bound to the model."""
    source = tmp_path / "questions.jsonl"
    source.write_text('{"prompt": "x"}\n' * 3)
    with model_of(world) as model:

        async def answers(asked: Any, **words: Any) -> set[str]:
            target = tmp_path / f"answers{len(list(tmp_path.iterdir()))}.jsonl"
            result = getattr(asked, mode)(source, target, **words)
            if mode == "abatch_file":
                await result
            return {json.loads(line)["answer"] for line in target.read_text().splitlines()}

        assert await answers(model, config=configured(llm_fallback_chain="cheap", chain="other")) == {"cheap"}
        assert await answers(model.with_config(configured(llm_fallback_chain="cheap"))) == {"cheap"}
        assert await answers(model, model="other") == {"other"}
        assert await answers(model, config=configured(chain="chaep")) == {"main"}
        for words in ({"chain": "chaep"}, {"config": configured(llm_fallback_chain="chaep")}):
            with pytest.raises(ValueError, match="did you mean 'cheap'"):
                await answers(model, **words)
    assert len(warnings(caplog)) == 1
