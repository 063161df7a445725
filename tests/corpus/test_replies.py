"""What real servers say when all goes well, through the whole stack: spec, LangChain, litellm, real HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import litellm
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk

from llm_fallback import ChainExhausted, FallbackChatModel, StreamBroken, build_chat_model
from tests.corpus.cases import Reply, System, Way, systems
from tests.corpus.stage import Stage
from tests.corpus.table import PAGE, page
from tests.litellm_adapter.test_direct_and_relayed_alike import heard

BACKUP = Reply(
    system="backup",
    name="backup",
    source="made up",
    shows="whole",
    frames=[{"id": "c", "choices": [{"index": 0, "delta": {"content": "from the backup"}, "finish_reason": "stop"}]}],
)
SPARE = System(
    "backup", {"it": {"backend": "vllm", "model": "spare", "api_base": "{address}"}}, "sse", [], {}, [BACKUP]
)
SYSTEMS = [one for one in systems() if one.replies]
SPOKEN = [(system, by, reply) for system in SYSTEMS for by, reply in system.spoken()]


def params(*, ways: bool, failures: bool) -> list[Any]:
    """Replies, or those answers that are none, by who is asked for them and, if wanted, how.

    The second way of each, and whatever looks at streams more closely, is slow.
    """
    chosen = [(system, by, reply) for system, by, reply in SPOKEN if (reply.failure is not None) is failures]
    if not ways:
        return [pytest.param(*one, id=_id(*one), marks=pytest.mark.slow) for one in chosen if "streamed" in one[2].ways]
    return [
        pytest.param(*one, way, id=f"{_id(*one)}-{way}", marks=() if way == one[2].ways[0] else pytest.mark.slow)
        for one in chosen
        for way in one[2].ways
    ]


def _id(system: System, by: str, reply: Reply) -> str:
    return f"{system.name}-{reply.name}-{by}"


@dataclass(frozen=True)
class Play:
    """A stage, and a model per system: each reply is a chain of its own, and two with a backup behind it."""

    stage: Stage
    models: Mapping[str, FallbackChatModel]

    def invoke(self, system: System, by: str, reply: Reply) -> AIMessage:
        return self._asked(system, reply).invoke("hi", chain=_id(system, by, reply))

    def stream(self, system: System, by: str, reply: Reply, *, on_stream_break: str = "raise") -> Iterator[Any]:
        chain = _id(system, by, reply)
        return self._asked(system, reply).stream(
            "hi", chain=chain if on_stream_break == "raise" else f"{chain}-{on_stream_break}"
        )

    @contextmanager
    def cut(self, reply: Reply, after: int) -> Iterator[None]:
        """The reply's stream ends after so many frames, as if nothing were wrong."""
        self.stage.cuts[reply.place] = after
        try:
            yield
        finally:
            del self.stage.cuts[reply.place]

    def _asked(self, system: System, reply: Reply) -> Any:
        model = self.models[system.name]
        return model.bind_tools([_tool(name) for name, _ in reply.tools]) if reply.tools else model


@pytest.fixture(scope="module")
def play() -> Iterator[Play]:
    with Stage([*SYSTEMS, SPARE]) as stage, pytest.MonkeyPatch.context() as patch:
        point_at(stage, patch)
        built = {one.name: build_chat_model(_spec(one, stage.url)) for one in SYSTEMS}
        yield Play(stage, built)
        for model in built.values():
            model.close()


def point_at(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    """Have those asked at the stage that have no `api_base`, or ask somebody else for a token first."""

    async def token(*_: object, **__: object) -> tuple[str, str]:
        return "a-token", "p"

    patch.setenv("OPENAI_BASE_URL", stage.url)
    patch.setattr(litellm.main.vertex_chat_completion, "_ensure_access_token_async", token)


def _spec(system: System, url: str) -> dict[str, Any]:
    deployments = {"backup": SPARE.deployment("it", BACKUP.place, url)}
    chains: dict[str, Any] = {}
    for by, reply in system.spoken():
        name = _id(system, by, reply)
        # A breaker tells whether an answer that is no reply was taken for a fault of the deployment; where a stream is
        # cut again and again it would keep calls from it.
        breaker = {} if reply.failure else {"breaker": "off"}
        deployments[name] = {**system.deployment(by, reply.place, url), **breaker}
        chains[name] = {"tiers": [name]}
        for todo in ("continue", "hold"):
            chains[f"{name}-{todo}"] = {"tiers": [name, "backup"], "on_stream_break": todo}
    return {
        "defaults": {"retries": {"max": 0}, "timeouts": {"total_s": 20}},
        "deployments": deployments,
        "chains": chains,
        "default_chain": next(iter(chains)),
    }


def _tool(name: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": "Looks it up.", "parameters": {"type": "object", "properties": {}}},
    }


def joined(chunks: Iterable[AIMessageChunk]) -> AIMessageChunk:
    return reduce(add, chunks)


def told(message: AIMessage, usage: Mapping[str, int]) -> dict[str, Any]:
    """What a caller learns of a reply; of its usage as much as is asked for."""
    return {
        "text": message.text,
        "reasoning": message.additional_kwargs.get("reasoning_content") or "",
        "tools": [[call["name"], call["args"]] for call in message.tool_calls],
        "invalid": message.invalid_tool_calls,
        "finish": message.response_metadata.get("finish_reason"),
        "usage": {name: count for name, count in counts(message).items() if name in usage},
        "attempts": [
            (attempt["outcome"], attempt["failure"])
            for attempt in message.response_metadata["llm_fallback"]["attempts"]
        ],
    }


def expected(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "reasoning": reply.reasoning,
        "tools": [list(call) for call in reply.tools],
        "invalid": [],
        "finish": reply.finish,
        "usage": dict(reply.usage),
        "attempts": [("succeeded", None)],
    }


def counts(message: AIMessage) -> dict[str, int]:
    """LangChain's usage, its details beside the rest; of what is not told, 0."""
    usage: Mapping[str, Any] = message.usage_metadata or {}
    nothing = {"cache_read": 0, "cache_creation": 0, "reasoning": 0}
    details = {**usage.get("input_token_details", {}), **usage.get("output_token_details", {})}
    return {**nothing, **{name: usage[name] for name in ("input_tokens", "output_tokens") if usage}, **details}


@pytest.mark.parametrize(("system", "by", "reply", "way"), params(ways=True, failures=False))
def test_what_a_server_says_comes_to_what_it_means(play: Play, system: System, by: str, reply: Reply, way: Way) -> None:
    """Text, reasoning, tools, finish and usage of one attempt, the same whether it came at once or in pieces."""
    message = play.invoke(system, by, reply) if way == "plain" else joined(play.stream(system, by, reply))
    assert told(message, reply.usage) == expected(reply)
    ids = [call["id"] for call in message.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("system", "by", "reply", "way"), params(ways=True, failures=False))
def test_it_means_the_same_when_somebody_listens_to_litellm(
    play: Play, system: System, by: str, reply: Reply, way: Way
) -> None:
    """Requests go through litellm then, which reads the replies for whoever listens, in ways of its own."""
    with heard("relayed"):
        message = play.invoke(system, by, reply) if way == "plain" else joined(play.stream(system, by, reply))
    assert told(message, reply.usage) == expected(reply)


@pytest.mark.parametrize(("system", "by", "reply"), params(ways=False, failures=False))
def test_a_stream_that_ends_before_its_finish_is_never_a_reply(
    play: Play, system: System, by: str, reply: Reply
) -> None:
    """It broke off where something was delivered, else the chain goes on; wherever it ended."""
    for after in reply.unfinished:
        chunks: list[Any] = []
        with play.cut(reply, after), pytest.raises((StreamBroken, ChainExhausted)) as caught:
            chunks.extend(play.stream(system, by, reply))
        delivered = any(has_content(chunk) for chunk in chunks)
        assert (after, isinstance(caught.value, StreamBroken)) == (after, delivered)
        assert reply.text.startswith("".join(chunk.text for chunk in chunks))


@pytest.mark.parametrize(("system", "by", "reply"), params(ways=False, failures=False))
def test_a_held_stream_that_ends_before_its_finish_is_answered_by_the_next(
    play: Play, system: System, by: str, reply: Reply
) -> None:
    """Nothing of it is seen."""
    for after in reply.unfinished:
        with play.cut(reply, after):
            message = joined(play.stream(system, by, reply, on_stream_break="hold"))
        outcomes = [attempt["outcome"] for attempt in message.response_metadata["llm_fallback"]["attempts"]]
        assert (after, message.text, outcomes) == (after, "from the backup", ["failed", "succeeded"])


@pytest.mark.parametrize("on_stream_break", ["continue", "hold"])
@pytest.mark.parametrize(("system", "by", "reply"), params(ways=False, failures=False))
def test_nothing_is_added_to_a_whole_stream(
    play: Play, system: System, by: str, reply: Reply, on_stream_break: str
) -> None:
    """Whatever would be done if it broke off."""
    message = joined(play.stream(system, by, reply, on_stream_break=on_stream_break))
    assert told(message, reply.usage) == expected(reply)


@pytest.mark.parametrize(("system", "by", "reply", "way"), params(ways=True, failures=True))
def test_an_answer_that_is_no_reply_is_the_failure_it_is(
    play: Play, system: System, by: str, reply: Reply, way: Way
) -> None:
    """A refusal is nobody's fault: the breaker is not told."""
    with pytest.raises((StreamBroken, ChainExhausted)) as caught:
        play.invoke(system, by, reply) if way == "plain" else list(play.stream(system, by, reply))
    assert [attempt.failure for attempt in caught.value.attempts] == [reply.failure]
    if reply.failure == "content_policy":
        assert play.models[system.name].state()[_id(system, by, reply)]["failures"] == 0


def test_the_documentation_says_what_is_played() -> None:
    """The table in docs/backends.md is what the corpus holds."""
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def has_content(chunk: AIMessageChunk) -> bool:
    told = chunk.additional_kwargs
    media = {"audio", "images"} & (told.get("provider_specific_fields") or {}).keys()
    return bool(chunk.text or told.get("reasoning_content") or chunk.tool_call_chunks or media)
