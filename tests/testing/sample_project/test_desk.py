"""What the desk does while its models do not."""

import pytest
from desk import SORRY, Ticket, answer, answer_soon, part_asked_for, triage, typed, typed_soon

from llm_fallback.testing import Cut, Empty, Fail, Garbage, Reply, Stall, assert_attempts

DOWN = {
    "connection": Fail("connection"),
    "server_error": Fail(500),
    "overloaded": Fail(503),
    "rate_limited": Fail(429, retry_after=30),
    "quota_exhausted": Fail("quota_exhausted"),
    "auth": Fail(401),
    "not_found": Fail(404),
    "timeout": Fail("timeout"),
    "invalid_response": Garbage(),
    "empty_response": Empty(),
}


@pytest.mark.parametrize("failure", DOWN)
def test_somebody_answers_whatever_is_wrong_with_the_gpu(chain, failure):
    model = chain({"gpu": DOWN[failure], "spare": "Oil it."})
    assert answer(model, "It squeaks.") == "Oil it."
    assert [asked.deployment for asked in model.received()] == ["gpu", "spare"]


@pytest.mark.parametrize("failure", DOWN)
async def test_somebody_answers_in_async_code(chain, failure):
    model = chain({"gpu": DOWN[failure], "spare": DOWN[failure], "hosted": "Oil it."})
    assert await answer_soon(model, "It squeaks.") == "Oil it."


@pytest.mark.parametrize("failure", DOWN)
def test_somebody_types_whatever_is_wrong_with_the_gpu(chain, failure):
    model = chain({"gpu": DOWN[failure], "spare": "Oil it."})
    assert "".join(typed(model, "It squeaks.")) == "Oil it."


@pytest.mark.parametrize("failure", DOWN)
def test_nobody_is_at_the_desk_when_all_are_down(chain, failure):
    down = dict.fromkeys(["gpu", "spare", "hosted"], DOWN[failure])
    model = chain(down)
    assert answer(model, "It squeaks.") == SORRY
    assert model.clock.now() <= 25


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_broken_stream_is_seen_to_be_broken(chain, count):
    model = chain({"gpu": Cut(count, reply="Oil the chain, then ride.")})
    assert "".join(typed(model, "It squeaks.")).endswith("…")


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_the_reader_never_sees_one(chain, count):
    model = chain({"gpu": Cut(count), "spare": "Oil it."}, chain="reader")
    assert "".join([text async for text in typed_soon(model, "It squeaks.")]) == "Oil it."


def test_a_slow_first_word_costs_two_seconds(chain):
    model = chain({"gpu": Stall(), "spare": "Oil it."})
    assert "".join(typed(model, "It squeaks.")) == "Oil it."
    assert model.clock.now() == 2


def test_mail_becomes_a_ticket(chain):
    model = chain({"gpu": "I am no form.", "spare": '{"subject": "squeak", "urgency": "low"}'})
    assert triage(model, "It squeaks, no hurry.") == Ticket(subject="squeak", urgency="low")


def test_a_ticket_is_filled_without_a_script(chain):
    assert triage(chain(), "My bicycle squeaks; the urgency is high.").urgency in ("low", "high")


def test_the_stock_is_looked_up(chain):
    call = Reply(tool_calls=[{"name": "stock", "args": {"part": "chain"}}])
    assert part_asked_for(chain({"gpu": Fail(500), "spare": call}), "Have you got chains?") == "chain"


def test_our_own_gpu_is_cheap_and_the_spare_one_free(chain):
    model = chain({"gpu": Reply("Oil it.", usage=(100, 50))})
    facts = model.invoke("It squeaks.").response_metadata["llm_fallback"]
    assert facts["cost_usd"] == pytest.approx(150 * 0.2 / 1e6)
    model.script("gpu", Fail(500))
    assert model.invoke("It squeaks.").response_metadata["llm_fallback"]["cost_usd"] == 0


def test_three_failures_close_the_gpu_for_half_a_minute(chain):
    model = chain({"gpu": Fail(500), "spare": "Oil it."})
    for _ in range(4):
        last = model.invoke("It squeaks.")
    assert_attempts(last, "spare: succeeded")
    model.script("gpu", "It is fixed.")
    model.clock.advance(31)
    assert_attempts(model.invoke("It squeaks."), "gpu: succeeded")
