"""A recipe is sent where a model cannot go: to workers, which build the model for themselves."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy
import pandas
import pytest

from llm_fallback import Recipe, SpecError
from llm_fallback.testing import Fail, FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer({"primary": Fail(500), "backup": "hello"}) as server:
        yield server


@pytest.fixture
def recipe(server: FakeServer) -> Recipe:
    return Recipe(server.spec(), retries={"max": 0})


def ask(recipe: Recipe) -> tuple[str, str, bool]:
    """In a worker: the answer, who gave it, and whether the model is the same the second time."""
    reply = recipe("hi")
    return reply.text, reply.response_metadata["llm_fallback"]["deployment"], recipe() is recipe()


def test_it_gives_the_model_of_the_process(recipe):
    """One, whichever copy of the recipe asks, and however many threads do at once."""
    copy = pickle.loads(pickle.dumps(recipe))
    with ThreadPoolExecutor(8) as threads:
        models = list(threads.map(lambda made: made(), [recipe, copy] * 8))
    assert all(model is models[0] for model in models)
    assert recipe("hi").text == "hello"


def test_two_recipes_make_two_models(server):
    """Also of the same spec: their overrides may differ."""
    assert Recipe(server.spec())() is not Recipe(server.spec())()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_workers_of_multiprocessing_build_the_model_for_themselves(recipe, method):
    """By each method of starting them; the parent has used its own before."""
    recipe("hi")
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(ask, [recipe] * 4) == [("hello", "backup", True)] * 4


def test_a_wrong_spec_is_told_at_once():
    """Not in the worker, of which one sees a traceback in a log."""
    with pytest.raises(SpecError):
        Recipe({"deployments": {}})


def test_it_does_not_pickle_a_key_in_clear(server):
    """A pickle can be read by whoever finds it."""
    spec = server.spec()
    spec["deployments"]["primary"]["api_key"] = "sk-in-clear"
    with pytest.raises(TypeError, match="secret in clear"):
        pickle.dumps(Recipe(spec))


def prompts() -> list[str]:
    return ["one", "two", "three"]


def test_a_mapping_of_arrays_gets_three_columns(recipe):
    """As Ray Data hands rows over by default."""
    answered = recipe.batches(prompt="text")({"text": numpy.array(prompts()), "id": numpy.arange(3)})
    assert list(answered) == ["text", "id", "answer", "llm_fallback", "error"]
    assert answered["answer"].tolist() == ["hello"] * 3
    assert json.loads(answered["llm_fallback"][0])["deployment"] == "backup"
    assert answered["error"].tolist() == [None] * 3


def test_lists_and_frames_stay_what_they_are(recipe):
    """The column of answers has the name that was asked for."""
    batches = pickle.loads(pickle.dumps(recipe.batches(prompt="text", answer="reply")))
    assert batches({"text": prompts()})["reply"] == ["hello"] * 3
    frame = batches(pandas.DataFrame({"text": prompts()}))
    assert isinstance(frame, pandas.DataFrame)
    assert frame["reply"].tolist() == ["hello"] * 3
    assert batches({"text": []})["reply"] == []


def test_an_arrow_table_stays_one(recipe):
    """With texts in its new columns."""
    pyarrow = pytest.importorskip("pyarrow")
    table = recipe.batches(prompt="text")(pyarrow.table({"text": prompts()}))
    assert table.column("answer").to_pylist() == ["hello"] * 3
    assert table.schema.field("error").type == pyarrow.string()


def test_a_row_that_fails_fails_alone():
    """Its answer is null, its error says why, and its facts say who was asked."""
    with FakeServer({"only": [Fail("content_policy"), "fine"]}) as server:
        answered = Recipe(server.spec()).batches(concurrency=1)({"prompt": ["a", "b"]})
    assert answered["answer"] == [None, "fine"]
    assert json.loads(answered["error"][0])["failure"] == "content_policy"
    assert json.loads(answered["llm_fallback"][0])["attempts"][0]["deployment"] == "only"
    assert answered["error"][1] is None


def test_a_column_that_is_not_there_is_named(recipe):
    """With those that are."""
    with pytest.raises(ValueError, match="no column 'prompt'; it has 'text'"):
        recipe.batches()({"text": prompts()})


def test_a_row_over_the_budget_fails_without_facts_of_a_call():
    """Nobody was asked."""
    with FakeServer({"only": "fine"}) as server:
        spec = server.spec(deployments={"only": {"price": {"per_request": 2}}})
        answered = Recipe(spec, budget={"usd_per_call": 1}).batches()({"prompt": ["a"]})
    assert (answered["answer"], answered["llm_fallback"]) == ([None], [None])
    assert json.loads(answered["error"][0])["failure"] == "budget"


def test_what_is_no_prompt_ends_the_batch(recipe):
    """It is the caller's mistake, and no deployment's failure."""
    with pytest.raises(ValueError, match="Invalid input type"):
        recipe.batches()({"prompt": [42]})
