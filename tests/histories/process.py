"""A process of a history: a model, and all that runs for it. Killed, it does nothing more, and gives nothing back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextvars import Context, ContextVar
from copy import deepcopy
from typing import Any

from llm_fallback.chat_model.runtime import Adapter, ModelRuntime
from llm_fallback.engine.engine import Engine
from llm_fallback.engine.health import DeploymentHealth
from llm_fallback.events import Event
from llm_fallback.plan.plan import Plan
from llm_fallback.spec import load_spec
from llm_fallback.testing.deployments import FakeDeployments
from llm_fallback.testing.model import FakeChatModel

_process: ContextVar[SimulatedProcess | None] = ContextVar("process", default=None)


class SimulatedProcess:
    """One process."""

    def __init__(self, name: str, died: asyncio.Future[None]) -> None:
        self.name, self.died = name, died
        self.context = Context()
        """In which everything of this process runs."""
        self.context.run(_process.set, self)
        self.engines: list[Engine] = []
        """Those of former specs too."""
        self.plans: list[Plan] = []
        self.deployments: list[tuple[str, DeploymentHealth]] = []
        """What is known of them, also by those of former specs."""
        self.is_closed = False

    def build(
        self, document: Mapping[str, Any], adapter: Adapter, listener: Callable[[SimulatedProcess, Event], None]
    ) -> None:
        """Build its model."""
        spec = load_spec(deepcopy(dict(document)))
        runtime = ModelRuntime(spec, adapter, {})
        self.model = FakeChatModel(
            spec=spec, runtime=runtime, fakes=FakeDeployments({}), listeners=[lambda event: listener(self, event)]
        )
        self._take(runtime)

    def reload(self, document: Mapping[str, Any]) -> None:
        self.model.reload(load_spec(deepcopy(dict(document))))
        self._take(self.model.runtime)

    def _take(self, runtime: ModelRuntime) -> None:
        self.engines.append(runtime.engine)
        self.plans.append(runtime.plan)
        health = {engine.health[name]: name for engine in self.engines for name in engine.health}
        self.deployments = [(name, known) for known, name in health.items()]

    def is_as_ever(self, deployment: str) -> bool:
        """Whether no reload has changed what is kept of a deployment, so that it was kept."""
        first, *others = [plan.targets[deployment] for plan in self.plans]
        kept = [(first.breaker, first.limits, first.cold_start, first.parameters)]
        return all((each.breaker, each.limits, each.cold_start, each.parameters) in kept for each in others)

    def read_files(self) -> None:
        """Learn what others have spent of budgets that are kept in files; waits for it."""
        for account in self.engine.budgets._accounts.values():
            account.sync()

    def knows_that_all_is_well(self) -> bool:
        """Whether none of its breakers is open, or waits for a probe."""
        health = self.engine.health
        return all(health[name].breaker.is_closed for name in health)

    @property
    def engine(self) -> Engine:
        return self.engines[-1]

    @property
    def is_alive(self) -> bool:
        return not self.died.done()

    @property
    def is_built(self) -> bool:
        return bool(self.engines)

    def kill(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """`tasks` are all there are: the garbage collector would end those of the dead in its own way."""
        self._last_tasks = tasks
        self.died.set_result(None)


def this_process() -> SimulatedProcess | None:
    """Whose it is, what runs now."""
    return _process.get()


def is_of_a_dead_process(context: Context) -> bool:
    process = context.get(_process)
    return process is not None and process.died.done()
