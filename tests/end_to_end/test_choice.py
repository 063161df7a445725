"""Whom a call asks, from the spec to the metadata: zones, affinity, slow answers, cheaper ones, service tiers.

Each on fakes in the process; what is sent over HTTP is in the tests of the real model's transport.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from llm_fallback import (
    BudgetExceeded,
    ChainExhausted,
    SpecError,
    StreamBroken,
    build_chat_model,
    build_router,
    load_spec,
)
from llm_fallback.callbacks import BudgetCallbackHandler
from llm_fallback.testing import Cut, Fail, FakeServer, Reply, Stall, assert_attempts, fake_chat_model
from tests.asking import MODES, TWO_MODES, ask
from tests.thinning import examples


def spec_of(deployments: dict[str, Any], **chain: Any) -> dict[str, Any]:
    entries = {name: {"model": f"openai/{name}", **entry} for name, entry in deployments.items()}
    return {"deployments": entries, "chains": {"c": {"tiers": [list(entries)], **chain}}}


def facts_of(reply: AIMessage) -> dict[str, Any]:
    facts: dict[str, Any] = reply.response_metadata["llm_fallback"]
    return facts


def skipped(facts: dict[str, Any]) -> dict[str, str]:
    return {skip["deployment"]: skip["reason"] for skip in facts["skipped"]}


# Zones.

HOUSE = {"own": {"zone": "own"}, "eu": {"zone": "eu"}, "us": {"zone": "us"}, "unknown": {}}


def zoned(scripts: Any = None, **chain: Any) -> Any:
    tiers = chain.pop("tiers", ["us", "unknown", "eu", "own"])
    return fake_chat_model(scripts, spec=spec_of(HOUSE, tiers=tiers, **chain))


@pytest.mark.parametrize("mode", MODES)
async def test_a_deployment_outside_of_the_chains_zones_is_passed_over_and_named(mode):
    """One without a zone is outside of every zone; that it is passed over is no fallback."""
    model = zoned(zones=["own", "eu"])
    facts = facts_of(await ask(model, mode))
    assert (facts["deployment"], facts["fell_back"]) == ("eu", False)
    assert skipped(facts) == {"us": "zone", "unknown": "zone"}
    assert {request.deployment for request in model.received()} == {"eu"}


@pytest.mark.parametrize("mode", MODES)
async def test_a_calls_zones_narrow_the_chains_and_widen_nothing(mode):
    """However they are given: bound, in the call, in the config."""
    model = zoned(zones=["own", "eu"])
    config = {"configurable": {"zones": ["own", "us"]}}
    for asked, words in ((model, {"zones": ["own", "us"]}), (model.bind(zones="own"), {}), (model, {"config": config})):
        facts = facts_of(await ask(asked, mode, **words))
        assert facts["deployment"] == "own"
        assert skipped(facts)["eu"] == "zone"


def test_what_is_bound_no_call_widens():
    """Nor a config: all of them hold together."""
    bound = zoned().bind(zones=["own"])
    assert facts_of(bound.invoke("hi", zones=["own", "us"]))["deployment"] == "own"
    assert facts_of(bound.invoke("hi", config={"configurable": {"zones": ["own", "us"]}}))["deployment"] == "own"
    with pytest.raises(ChainExhausted):
        bound.invoke("hi", zones=["us"])
    with pytest.raises(ChainExhausted):
        zoned().bind(zones="own").bind(zones="us").invoke("hi", zones="own", config={"configurable": {"zones": "eu"}})


@pytest.mark.parametrize("odd", [5, [5], [["own"]], {"own": 1, 2: 3}, ["own", None]])
def test_zones_that_are_no_names_are_refused(odd):
    """By whichever word they are given."""
    for ask_so in (
        lambda: zoned().invoke("hi", zones=odd),
        lambda: zoned().bind(zones=odd),
        lambda: zoned().invoke("hi", config={"configurable": {"zones": odd}}),
    ):
        with pytest.raises(SpecError, match="zones: must be names of zones, got"):
            ask_so()


@pytest.mark.parametrize("mode", TWO_MODES)
async def test_where_no_deployment_is_in_all_of_the_zones_nothing_is_sent(mode):
    """The call is at fault, and says so."""
    model = zoned(zones=["own"])
    with pytest.raises(ChainExhausted) as raised:
        await ask(model, mode, zones=["us"])
    assert (raised.value.failure, raised.value.attempts) == ("bad_request", ())
    assert {skip.reason for skip in raised.value.skipped} == {"zone"}
    assert model.received() == []


@pytest.mark.parametrize("failure", ["context_window", "content_policy"])
@pytest.mark.parametrize("mode", TWO_MODES)
async def test_a_side_route_keeps_to_the_zones_too(mode, failure):
    """The prompt that one refuses is no less secret than another."""
    zones, side_route = ["own", "eu"], {f"on_{failure}": ["us", "own"]}
    scripts = {"eu": [Fail(failure)] * 2}
    for model, words in (
        (zoned(scripts, zones=zones, **side_route), {}),
        (zoned(scripts, **side_route), {"zones": zones}),
    ):
        assert facts_of(await ask(model, mode, **words))["deployment"] == "own"
        assert [request.deployment for request in model.received()] == ["eu", "own"]


@pytest.mark.parametrize("words", [{"zones": ["onw"]}, {"config": {"configurable": {"zones": "onw"}}}])
def test_a_zone_that_no_deployment_is_in_is_told_with_the_nearest(words):
    """A word that is misspelt must not pass for a zone where nobody is."""
    with pytest.raises(ValueError, match="no deployment is in zone 'onw'; did you mean 'own'"):
        zoned().invoke("hi", **words)


def test_so_it_is_at_build_and_in_bind():
    """Before anything is asked."""
    with pytest.raises(SpecError, match="did you mean 'own'"):
        fake_chat_model(spec=spec_of(HOUSE), zones=["onw"])
    with pytest.raises(ValueError, match="did you mean 'own'"):
        zoned().bind(zones=["onw"])


def test_zones_given_at_build_hold_for_every_chain_of_the_model():
    """And for what explain, ping and the Router of it say."""
    spec = {**spec_of(HOUSE), "default_chain": "c"}
    spec["chains"]["other"] = {"tiers": ["us", "own"]}
    with build_chat_model(spec, zones=["own"]) as model:
        assert model.explain()["tiers"] == model.explain("other")["tiers"] == [["own"]]
        assert {row["model_info"]["id"] for row in model.router.model_list} == {"c/own", "other/own"}
        bound = model.bind(zones=["own"])
        assert {row["model_info"]["id"] for row in bound.bound.router.model_list} == {"c/own", "other/own"}
    fake = fake_chat_model(spec=spec, zones=["own"])
    assert facts_of(fake.invoke("hi", chain="other"))["deployment"] == "own"
    assert facts_of(fake.with_chain("other").invoke("hi"))["deployment"] == "own"


@pytest.mark.parametrize("zones", [["eu"], "eu", []])
def test_a_chain_of_which_no_deployment_is_in_its_zones_is_a_mistake_of_the_spec(zones):
    """With what there is."""
    with pytest.raises(SpecError, match=r"chains\.c\.zones: no deployment of the chain's tiers is in them.*'own'"):
        load_spec(spec_of({"own": {"zone": "own"}, "idle": {"zone": "eu", "weight": 0}}, zones=zones))


def test_zones_of_the_defaults_hold_for_every_chain():
    """A chain has its own in their place."""
    spec = load_spec({**spec_of(HOUSE), "defaults": {"zones": ["own"]}})
    assert spec.zones("c") == {"own"}
    assert build_router(spec).model_list[0]["model_info"]["id"] == "c/own"


def test_explain_says_who_may_see_a_prompt():
    """And who is never asked."""
    explained = zoned(zones=["own", "eu"]).explain()
    assert explained["zones"] == {"eu": "eu", "own": "own"}
    assert (explained["tiers"], explained["max_requests"]) == ([["eu"], ["own"]], 4)
    assert "no prompt leaves eu, own: it may go to eu (eu), own (own); never us, unknown" in explained["notes"]


WORLD = {"own-a": {"zone": "own"}, "own-b": {"zone": "own"}, "eu": {"zone": "eu"}, "us-a": {"zone": "us"}, "us-b": {}}
STEPS = [
    *(Fail(status) for status in (429, 500, 503, 401, 404, 400)),
    *(Fail(word) for word in ("context_window", "content_policy", "quota_exhausted", "connection")),
    *(Cut(after_chunks=2), Stall(after_chunks=1), Stall(), "fine", Reply("a slow one", delay_s=4.0)),
]


@settings(max_examples=examples(100))
@given(st.integers(0, 2**32))
def test_no_request_leaves_the_zones_whatever_fails(seed):
    """Fallback, hedges, continued streams, side routes, repeats and slow ones, over random chains: nobody outside gets
    a request."""
    asyncio.run(_nothing_leaves(random.Random(seed), calls=5))


@pytest.mark.slow
def test_no_request_leaves_the_zones_in_many_calls_with_failures_of_every_kind():
    """Ten thousand of them; the benchmark makes a million."""
    asyncio.run(_nothing_leaves(random.Random(7), calls=10_000))


async def _nothing_leaves(rng: random.Random, calls: int) -> None:
    names = list(WORLD)

    def tiers() -> list[Any]:
        order = rng.sample(names, len(names))
        return [order[:2], *order[2:]]

    chain = {
        "tiers": tiers(),
        "on_context_window": rng.choice([None, tiers()]),
        "on_content_policy": rng.choice([None, tiers()]),
        "hedge": rng.choice([None, {"after_s": 1.0}]),
        "on_stream_break": rng.choice(["raise", "continue", "hold"]),
        "affinity": rng.choice(["off", "thread", "prefix"]),
        "zones": rng.choice([["own"], ["own", "eu"]]),
        "timeouts": {"total_s": 30, "attempt_s": 5, "idle_s": 5},
    }
    written = {key: value for key, value in chain.items() if value is not None}
    scripts = {name: [rng.choice(STEPS) for _ in range(calls)] for name in names}
    model = fake_chat_model(scripts, spec=spec_of(WORLD, **written))
    for number in range(calls):
        words: dict[str, Any] = {"config": {"configurable": {"thread_id": number % 5}}}
        narrowed = rng.random() < 0.3
        if narrowed:
            words["zones"] = ["own"]
        before = len(model.received())
        with suppress(ChainExhausted, StreamBroken):  # Whatever becomes of the call, who gets its prompt?
            await ask(model, rng.choice(TWO_MODES), **words)
        allowed = {"own"} if narrowed else set(chain["zones"])
        asked = {request.deployment for request in model.received()[before:]}
        assert {WORLD[name].get("zone") for name in asked} <= allowed


# Affinity.

REPLICAS: dict[str, Any] = {"a": {}, "b": {}, "c": {}}


def conversation(model: Any, thread: str, turns: int = 6) -> list[str]:
    """Who answered each turn."""
    said: list[Any] = []
    who = []
    for turn in range(turns):
        said.append(HumanMessage(f"{thread}: {turn}"))
        reply = model.invoke(said, {"configurable": {"thread_id": thread}})
        said.append(AIMessage(reply.content))
        who.append(facts_of(reply)["deployment"])
    return who


def test_a_conversation_stays_on_one_member_in_every_process():
    """Two models that know nothing of each other come to the same; all members have some."""
    one, other = (fake_chat_model(spec=spec_of(REPLICAS, affinity="thread")) for _ in range(2))
    homes = {}
    for number in range(30):
        who = {*conversation(one, f"t{number}"), *conversation(other, f"t{number}", 2)}
        assert len(who) == 1
        homes[f"t{number}"] = who.pop()
    assert set(homes.values()) == set(REPLICAS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", ["thread_id", "session_id"])
async def test_the_config_names_the_conversation_in_every_way_of_asking(mode, key):
    """Whatever is said."""
    model = fake_chat_model(spec=spec_of(REPLICAS, affinity="thread"))
    config = {"configurable": {key: "one"}}
    first, second = [facts_of(await ask(model, mode, text, config=config)) for text in ("hi", "something else")]
    assert first["deployment"] == second["deployment"]
    assert (first["fell_back"], second["fell_back"]) == (False, False)


def test_without_a_name_a_conversation_is_what_begins_alike():
    """The system message and the first words of the human."""
    model = fake_chat_model(spec=spec_of(REPLICAS, affinity="thread"))
    for number in range(12):
        begun = [SystemMessage("Be brief."), HumanMessage(f"hello {number}")]
        first = facts_of(model.invoke(begun))["deployment"]
        assert facts_of(model.invoke([*begun, AIMessage("hello"), HumanMessage("and?")]))["deployment"] == first


def test_by_prefix_a_prompts_beginning_counts_and_no_thread():
    """So the same question of many users goes to whoever has it in cache."""
    model = fake_chat_model(spec=spec_of(REPLICAS, affinity="prefix"))
    who = {
        facts_of(model.invoke("the same", {"configurable": {"thread_id": str(number)}}))["deployment"]
        for number in range(20)
    }
    assert len(who) == 1


def test_after_a_fallback_a_conversation_stays_where_it_went():
    """Until it was not used for five minutes; staying is no fallback."""
    model = fake_chat_model(spec=spec_of(REPLICAS, affinity="thread"))
    [home] = set(conversation(model, "one", 2))
    model.script(home, Fail(500), Reply("I am back"))
    went = conversation(model, "one", 1)[0]
    assert went != home
    reply = model.invoke("on", {"configurable": {"thread_id": "one"}})
    assert (facts_of(reply)["deployment"], facts_of(reply)["fell_back"]) == (went, False)
    asyncio.run(model.clock.sleep(301))
    assert conversation(model, "one", 1) == [home]


def test_others_stay_when_one_member_leaves():
    """Only its own conversations move."""
    spec = spec_of(REPLICAS, affinity="thread")
    model = fake_chat_model(spec=spec)
    before = {f"t{number}": conversation(model, f"t{number}", 1)[0] for number in range(60)}
    gone = fake_chat_model(spec=spec_of({"a": {}, "b": {}}, affinity="thread"))
    after = {thread: conversation(gone, thread, 1)[0] for thread in before}
    assert {thread for thread in before if before[thread] != after[thread]} == {
        thread for thread, home in before.items() if home == "c"
    }


async def test_one_that_has_too_much_under_way_passes_conversations_on():
    """Ninety calls of one conversation at once are not all for one replica."""
    slow = dict.fromkeys(REPLICAS, Reply("x", delay_s=1.0))
    model = fake_chat_model(slow, spec=spec_of(REPLICAS, affinity="thread"))
    config = {"configurable": {"thread_id": "one"}}
    replies = await asyncio.gather(*(model.ainvoke("hi", config) for _ in range(90)))
    counts = Counter(facts_of(reply)["deployment"] for reply in replies)
    assert max(counts.values()) <= 1.25 * 91 / 3 + 2
    assert not any(facts_of(reply)["fell_back"] for reply in replies)


# Slow answers.


@pytest.mark.parametrize("mode", TWO_MODES)
async def test_a_replica_that_got_slow_is_left_alone_and_its_answer_delivered(mode):
    """Its breaker opens, an event says so, and the next calls go to its mate."""
    events: list[Any] = []
    spec = spec_of({"a": {}, "b": {}}, balance="weighted")
    spec["defaults"] = {"breaker": {"slow_times": 4, "failures": 3}}
    quick = Reply("fine", delay_s=0.5)
    model = fake_chat_model({"a": quick, "b": quick}, spec=spec, listeners=(events.append,))
    for _ in range(20):
        await ask(model, mode)
    model.script("a", Reply("late", delay_s=8.0))
    while not [event for event in events if event.name == "llm_fallback.breaker_opened"]:
        reply = await ask(model, mode)
    assert (reply.content, facts_of(reply)["deployment"]) == ("late", "a")
    assert [event.deployment for event in events if event.name == "llm_fallback.breaker_opened"] == ["a"]
    state = model.state()
    assert (state["a"]["breaker"], state["b"]["breaker"]) == ("open", "closed")
    assert state["a"]["slow_share"] > 0.3
    assert state["b"]["slow_share"] == 0
    replies = [await ask(model, mode) for _ in range(10)]
    assert {facts_of(reply)["deployment"] for reply in replies} == {"b"}


# Money.

DEAR = {"price": {"input_per_million": 1000, "output_per_million": 1000}}
CHEAP = {"price": {"input_per_million": 1, "output_per_million": 1}}
FREE = {"price": "free"}


def priced(scripts: Any = None, *, on_limit: str = "cheaper", **deployments: Any) -> Any:
    budget = {"usd_per_call": "0.05", "usd_per_day": "1", "on_limit": on_limit}
    spec = spec_of(deployments, tiers=list(deployments), budget=budget)
    return fake_chat_model(scripts, spec=spec)


@pytest.mark.parametrize("mode", TWO_MODES)
async def test_where_money_is_short_the_call_goes_on_with_whom_it_suffices_for(mode):
    """Whoever is too expensive is named, and not asked."""
    facts = facts_of(await ask(priced(dear=DEAR, cheap=CHEAP, free=FREE), mode))
    assert (facts["deployment"], skipped(facts)) == ("cheap", {"dear": "budget"})


def test_what_is_free_can_always_be_asked():
    """However little is left."""
    model = priced({"free": "fine"}, dear=DEAR, free=FREE)
    assert {facts_of(model.invoke("hi"))["deployment"] for _ in range(20)} == {"free"}


def test_only_where_it_suffices_for_nobody_the_call_ends():
    """With what the first choice would have cost."""
    with pytest.raises(BudgetExceeded, match=r"might cost \$0\.256"):
        priced(dear=DEAR, dearer={"price": {"input_per_million": 2000, "output_per_million": 2000}}).invoke("hi")


def test_where_whom_it_suffices_for_fails_the_call_fails_by_that():
    """The money was there."""
    with pytest.raises(ChainExhausted) as raised:
        priced({"free": Fail(500)}, dear=DEAR, free=FREE).invoke("hi")
    assert raised.value.failure == "server_error"
    assert [(skip.deployment, skip.reason) for skip in raised.value.skipped] == [("dear", "budget")]


def test_without_the_word_it_raises_and_a_handler_always_does():
    """A handler's limit is somebody else's."""
    with pytest.raises(BudgetExceeded):
        priced(on_limit="raise", dear=DEAR, free=FREE).invoke("hi")
    handler = BudgetCallbackHandler(limit_usd=0.01)
    with pytest.raises(BudgetExceeded):
        priced(dear=DEAR, free=FREE).invoke("hi", config={"callbacks": [handler]})


# Service tiers.


@pytest.mark.parametrize("mode", TWO_MODES)
async def test_a_429_of_the_flex_tier_is_no_word_about_the_account(mode):
    """It counts as overloaded for that rung; the next one is asked with the same key."""
    rungs = {"flex": {"model": "openai/gpt-5", "params": {"service_tier": "flex"}}, "usual": {"model": "openai/gpt-5"}}
    model = fake_chat_model({"flex": Fail(429), "usual": "fine"}, spec=spec_of(rungs, tiers=["flex", "usual"]))
    assert_attempts(await ask(model, mode), "flex: overloaded", "usual: succeeded")
    assert model.state()["flex"]["breaker"] == "closed"


def test_a_tier_that_a_call_asks_for_counts_likewise():
    """Its parameters win over the deployment's."""
    model = fake_chat_model({"a": [Fail(429), "fine"], "b": "fine"}, spec=spec_of({"a": {}, "b": {}}, tiers=["a", "b"]))
    assert_attempts(model.invoke("hi", service_tier="flex"), "a: overloaded", "b: succeeded")


def test_each_service_tier_is_priced_as_litellm_lists_it():
    """Half for flex, twice for priority."""
    costs = {}
    for tier in (None, "flex", "priority"):
        params = {"service_tier": tier} if tier else {}
        spec = spec_of({"a": {"model": "openai/gpt-5", "params": params}})
        reply = fake_chat_model({"a": Reply("fine", usage=(1000, 100))}, spec=spec).invoke("hi")
        costs[tier] = facts_of(reply)["cost_usd"]
    assert costs["flex"] == pytest.approx(costs[None] / 2)
    assert costs["priority"] == pytest.approx(costs[None] * 2)


# Over HTTP.


async def test_over_http_a_slow_replica_gets_few_calls_and_conversations_stay():
    """The real model chooses as the fake does."""
    with FakeServer({"fast": Reply("x", delay_s=0.02), "slow": Reply("x", delay_s=1.0)}) as server:
        spec = server.spec()
        async with build_chat_model(spec) as model:
            await model.ainvoke("hi")  # The first call of a process loads what all need; that is no replica's slowness.
        [chain] = spec["chains"].values()
        chain["tiers"] = [["fast", "slow"]]
        async with build_chat_model(spec) as model:
            replies = [await model.ainvoke("hi") for _ in range(30)]
            counts = Counter(facts_of(reply)["deployment"] for reply in replies)
            assert counts["slow"] <= 3
        chain["affinity"] = "thread"
        async with build_chat_model(spec) as model:
            config = {"configurable": {"thread_id": "7"}}
            assert len({facts_of(await model.ainvoke("hi", config))["deployment"] for _ in range(4)}) == 1
