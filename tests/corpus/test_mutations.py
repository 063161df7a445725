"""What real servers say, spoilt in every way chance finds: values of other types, frames lost, doubled or out of order,
bytes that are none. Nothing but an error of ours leaves the model, and a healthy backup always answers.

Every run is the same unless `MUTATION_SEED` says otherwise; `MUTATION_SEED=random` looks for more. A failure prints it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import groupby
from random import Random
from traceback import format_exception
from typing import Any

import pytest

from llm_fallback import FallbackChatModel, StreamBroken, build_chat_model
from tests.asking import ask
from tests.corpus.cases import Reply, System, systems
from tests.corpus.stage import Stage
from tests.corpus.test_replies import BACKUP, SPARE, point_at

ANSWER = {"message": {"role": "assistant", "content": "from the backup"}, "finish_reason": "stop"}
HEALTHY = replace(SPARE, replies=[replace(BACKUP, body={"choices": [ANSWER]})])

_SEED = os.environ.get("MUTATION_SEED") or "1"
SEED = str(Random().randrange(10**9)) if _SEED == "random" else _SEED
BATCHES, OF_A_BATCH = 10, 1_000
MODES = ("invoke", "ainvoke", "stream", "astream")
SPOKEN = [(system, by, reply) for system in systems() for by, reply in system.spoken()]

ODD: Sequence[Any] = (
    *(None, True, False, 0, -1, 5, 1.5, 10**25, float("nan"), float("inf")),
    *("", "x", " ", "\x00", "null", "9" * 5_000, "a" * 100_000, "\ud83d", "half \ude00 an emoji", "\ud83d\ud83d"),
    *(
        [],
        {},
        [[]],
        [{}],
        {"": None},
        {"\udfff": "\ud800"},
        [None],
        ["a"],
        [5],
        {"a": 1},
        {"type": "text", "text": 5},
        {"index": "x"},
    ),
)
JUNK: Sequence[Any] = (
    *("<html>", "{", '"text"', "5", "null", "[]", "event: error", ": comment", "data:", "\ufeff", "[DONE]"),
    *({}, {"choices": []}, {"choices": [{}]}, {"error": None}, {"error": {}}, {"error": "boom"}, {"type": "error"}),
)


def spoilt(value: Any, chance: Random) -> Any:
    """The document with something else in one place."""
    document = deepcopy(value)
    places = list(places_in(document))
    if not places:
        return chance.choice(ODD)
    container, key = chance.choice(places)
    match chance.randrange(5):
        case 0 if isinstance(container, dict):
            del container[key]
        case 1 if isinstance(container, dict):
            container[f"{key}_"] = container.pop(key)
        case 2:
            container[key] = nested(container[key], chance.choice((3, 250, 2_000)))
        case 3 if isinstance(container, list):
            container.append(deepcopy(container[key]))
        case _:
            container[key] = deepcopy(chance.choice(ODD))
    return document


def places_in(value: Any) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(inner):
        yield value, key
        yield from places_in(item)


def nested(value: Any, levels: int) -> Any:
    for _ in range(min(levels, 400)):
        value = [value]
    return value


def spoilt_frames(frames: Sequence[Any], chance: Random) -> list[Any]:
    """The stream with one frame lost, doubled, moved, spoilt or added."""
    changed = list(frames)
    at = chance.randrange(len(changed))
    match chance.randrange(6):
        case 0:
            del changed[at]
        case 1:
            changed.insert(at, changed[at])
        case 2:
            changed.insert(chance.randrange(len(changed)), changed.pop(at))
        case 3:
            changed.insert(at, chance.choice([one for one in JUNK if isinstance(one, str)]))
        case _:
            changed[at] = spoilt(changed[at], chance) if isinstance(changed[at], dict) else chance.choice(JUNK)
    return changed


def spoilt_messages(frames: Sequence[Any], chance: Random) -> list[Any]:
    """The same for a stream whose frames are named messages with data."""
    changed = list(frames)
    at = chance.randrange(len(changed))
    match chance.randrange(4):
        case 0:
            del changed[at]
        case 1:
            changed.insert(at, changed[at])
        case 2:
            changed[at] = {**changed[at], "event": chance.choice(("messageStop", "nothing", "metadata"))}
        case _:
            changed[at] = {**changed[at], "data": spoilt(changed[at]["data"], chance)}
    return changed


def spoilt_bytes(chance: Random) -> Callable[[bytes], bytes]:
    """What spoils an answer's bytes: cut, or some of them others."""
    share, byte, how = chance.random(), chance.randrange(256), chance.randrange(4)

    def spoil(answer: bytes) -> bytes:
        at = int(share * len(answer))
        match how:
            case 0:
                return answer[:at]
            case 1:
                return answer[:at] + bytes([byte]) + answer[at + 1 :]
            case 2:
                return answer[:at] + answer[at + 5 :]
        return answer[:at] + bytes([byte]) * 3 + answer[at:]

    return spoil


def mutants(chance: Random, count: int) -> list[tuple[System, str, Reply]]:
    """Spoilt replies, each with a name of its own."""
    made = []
    for number in range(count):
        system, by, reply = chance.choice(SPOKEN)
        body = spoilt(reply.body, chance) if isinstance(reply.body, dict) else reply.body
        spoil = spoilt_messages if system.framing == "aws" else spoilt_frames
        frames = spoil(reply.frames, chance) if reply.frames else reply.frames
        made.append((system, by, replace(reply, name=f"{reply.name}-{number}", body=body, frames=frames)))
    return made


def spec(system: System, asked: Sequence[tuple[str, Reply]], url: str) -> Mapping[str, Any]:
    deployments = {reply.name: {**system.deployment(by, reply.place, url), "breaker": "off"} for by, reply in asked}
    return {
        "defaults": {"retries": {"max": 0}, "timeouts": {"total_s": 20, "attempt_s": 10, "idle_s": 5}},
        "deployments": {**deployments, "the backup": SPARE.deployment("it", BACKUP.place, url)},
        "chains": {name: {"tiers": [name, "the backup"]} for name in deployments},
        "default_chain": next(iter(deployments)),
    }


@pytest.fixture
def _unlogged() -> Iterator[None]:
    """Nothing is logged: litellm's records echo what servers say, and half a character in a report could not be handed
    from one process to another."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.usefixtures("_unlogged")
@pytest.mark.parametrize("batch", range(BATCHES))
async def test_however_an_answer_is_spoilt_the_caller_gets_one_or_an_error_of_ours(batch: int) -> None:
    """Plain, streamed, sync and async; StreamBroken only where a part of the reply was delivered."""
    chance = Random(f"{SEED}/{batch}")
    made = sorted(mutants(chance, OF_A_BATCH), key=lambda one: one[0].name)
    byte_spoilers = {reply.place: spoilt_bytes(chance) for _, _, reply in made if chance.random() < 0.2}
    playing = [
        replace(system, cases=(), also={}, replies=[reply for _, _, reply in group])
        for system, group in groupby(made, key=lambda one: one[0])
    ]
    with Stage([*playing, HEALTHY]) as stage, pytest.MonkeyPatch.context() as patch:
        point_at(stage, patch)
        stage.spoilt.update(byte_spoilers)
        for system, group in groupby(made, key=lambda one: one[0]):
            asked = [(by, reply) for _, by, reply in group]
            async with build_chat_model(spec(system, asked, stage.url)) as model:
                for _, reply in asked:
                    ways = [mode for mode in MODES if ("stream" in mode) == ("streamed" in reply.ways)]
                    mode = chance.choice(MODES if len(reply.ways) == 2 else ways)
                    what = f"MUTATION_SEED={SEED} batch {batch}: {reply.place} {mode}"
                    await hold(model, reply, mode, what)


async def hold(model: FallbackChatModel, reply: Reply, mode: str, what: str) -> None:
    outcome = "succeeded"
    try:
        message = await asyncio.wait_for(ask(model, mode, chain=reply.name), 30)
    except StreamBroken as broken:
        outcome, message = "failed", broken.partial
        assert "stream" in mode, what
    except BaseException as error:
        # Half characters in its text would break whoever reports it.
        said = json.dumps([reply.body, reply.frames], default=str)[:3000]
        raise AssertionError(ascii("".join(format_exception(error))[-3000:]), what, said) from None
    facts = message.response_metadata["llm_fallback"]
    assert facts["attempts"][-1]["outcome"] == outcome, what
    told = json.dumps([message.content, message.tool_calls, message.additional_kwargs, facts], ensure_ascii=False)
    assert told.encode(errors="replace").decode() == told, what


def test_what_spoils_answers_spoils_them() -> None:
    """Or ten thousand whole replies would prove nothing."""
    chance = Random(0)
    made = mutants(chance, 300)
    whole = [(reply.body, reply.frames) for _, _, reply in SPOKEN]
    assert sum((reply.body, reply.frames) not in whole for _, _, reply in made) > 250
