"""The scenes of the demo: one question, asked while a server fails in one way after another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from llm_fallback.engine.health import DeploymentState
from llm_fallback.errors import StreamBroken
from llm_fallback.events import CallEnded, Event, Record
from llm_fallback.litellm_adapter.build import build_chat_model
from llm_fallback.litellm_adapter.chat_model import FallbackChatModel
from llm_fallback.spec import Spec, load_spec
from llm_fallback.testing import Cut, Fail, FakeServer, Garbage, Reply, Stall
from llm_fallback.testing.scripts import Step

PROMPT = "Answer in one sentence: {question}"
QUESTION = "Why does a chain need a second deployment?"
PRIMARY = "qwen-vllm"


def _paced(text: str) -> Reply:
    """A reply that takes some milliseconds, so that the timeline shows something."""
    return Reply(text, delay_s=0.02, chunk_delay_s=0.003)


HEALTHY: dict[str, Step] = {
    PRIMARY: _paced("Because no single server is up all the time, mine included."),
    "qwen-trt": _paced("Because somebody has to answer when the first one does not."),
    "gpt-hosted": _paced("Because even two servers can be down at once."),
}
_BROKEN_OFF = _paced("Because no single server is up all the")


@dataclass(frozen=True, slots=True)
class Scene:
    """What the primary does, and the chain that is called meanwhile."""

    title: str
    happens: str
    primary: Step
    chain: str = "assistant"


SCENES = (
    Scene("healthy", "every server answers", HEALTHY[PRIMARY]),
    Scene("down", "the primary answers 500", Fail(500)),
    Scene("throttled", "the primary answers 429, Retry-After: 20", Fail(429, retry_after=20)),
    Scene("hung", "the primary accepts and stays silent", Stall()),
    Scene("cut off", "the primary's stream is reset half-way", Cut(4, reply=_BROKEN_OFF), chain="careful"),
    Scene("garbage", "the primary sends an HTML page with status 200", Garbage("html")),
)


@dataclass(frozen=True, slots=True)
class Played:
    """One call: its answer, its record, and the state of the primary's breaker afterwards."""

    answer: str
    record: Record
    breaker: DeploymentState
    error: StreamBroken | None = None


class Stage:
    """A server with three deployments, and the spec that declares them."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self.file = demo_file()
        self.spec: Spec = load_spec(self.file)

    def warm_up(self) -> None:
        """Make a call that is not shown: the first one imports half of litellm, which takes long."""
        with build_chat_model(self.spec, timeouts={"first_token_s": None, "attempt_s": None}) as model:
            model.invoke(QUESTION)

    def play(self, scene: Scene) -> Played:
        """Play a scene with a new model, which knows nothing of its servers yet."""
        self._server.script(PRIMARY, scene.primary)
        with RecordedChain(self.spec, scene.chain) as recorded:
            return recorded.ask()

    def outage(self) -> Iterator[Played]:
        """Play an outage with one model: the breaker opens, and closes when the primary is back for the last call."""
        self._server.script(PRIMARY, Fail(503))
        with RecordedChain(self.spec, "assistant") as recorded:
            for _ in range(4):
                yield recorded.ask()
            self._server.script(PRIMARY, HEALTHY[PRIMARY])
            time.sleep(recorded.cooldown_s())
            yield recorded.ask()


class RecordedChain:
    """A model in an LCEL chain, and the records of its calls."""

    def __init__(self, spec: Spec, chain: str) -> None:
        self._records: list[Record] = []
        self._model: FallbackChatModel = build_chat_model(spec, chain=chain, listeners=[self._record])
        self._chain = ChatPromptTemplate.from_template(PROMPT) | self._model | StrOutputParser()

    def __enter__(self) -> RecordedChain:
        return self

    def __exit__(self, *error: object) -> None:
        self._model.close()

    def _record(self, event: Event) -> None:
        if isinstance(event, CallEnded):
            self._records.append(event.record)

    def ask(self) -> Played:
        """Ask the question, as a stream."""
        chunks, broken = [], None
        try:
            for chunk in self._chain.stream({"question": QUESTION}):
                chunks.append(chunk)
        except StreamBroken as error:
            broken = error
        return Played("".join(chunks), self._records[-1], self._model.state()[PRIMARY], broken)

    def cooldown_s(self) -> float:
        """Seconds until the primary may be probed."""
        retry_in_s = self._model.state()[PRIMARY]["retry_in_s"]
        return 0.0 if retry_in_s is None else float(retry_in_s)


@contextmanager
def stage() -> Iterator[Stage]:
    """The stage, with every server healthy."""
    with FakeServer(dict(HEALTHY)) as server, _environment_variable("DEMO_URL", server.url):
        yield Stage(server)


def demo_file() -> Path:
    """The demo's spec: beside this module in an installed package, under examples/ in a checkout."""
    installed = Path(__file__).with_name("demo.yaml")
    checkout = Path(__file__).parents[3] / "examples" / "demo" / "llm-fallback.yaml"
    return installed if installed.is_file() else checkout


@contextmanager
def _environment_variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
