"""A fleet of real servers, a backup that always answers, and a spec over both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llm_fallback import load_spec
from llm_fallback.spec import Spec
from llm_fallback.testing import FakeServer, Reply
from tests.servers.fleet import Fleet, Server
from tests.servers.process import KEY
from tests.servers.systems import SYSTEMS, System
from tests.servers.times import Wait, table

SPEC = Path(__file__).parent / "llm-fallback.yaml"
COUNTED = "".join(f"{number} " for number in range(160))
"""What stands behind the proxy says this, at the pace of a model."""
BACKUP = "This is the backup."

_WAITS = pytest.StashKey[list[Wait]]()

SpecOf = Callable[..., Spec]


@pytest.fixture(scope="session")
def fake() -> Iterator[FakeServer]:
    """The backup, and the model behind the proxy."""
    counting = Reply(COUNTED, chunk_delay_s=0.03)
    with FakeServer({"backup": BACKUP, "upstream": counting, "slow": Reply(COUNTED, delay_s=6)}) as server:
        yield server


@pytest.fixture(scope="session")
def fleet(fake: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    environment = {"UPSTREAM_URL": f"{fake.url}/v1"}
    fleet = Fleet(SYSTEMS.values(), environment, tmp_path_factory.mktemp("logs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVERS_KEY", KEY)
        patch.setenv("BACKUP_URL", fake.base("backup"))
        for server in fleet.servers.values():
            patch.setenv(server.system.url_variable, server.url)
        yield fleet
    fleet.end()


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[System]:
    """The system whose turn it is; its server is gone when the next one's comes."""
    yield request.param
    fleet[request.param].end()


@pytest.fixture
def server(system: System, fleet: Fleet) -> Server:
    """Its server, up."""
    fleet[system].start()
    return fleet[system]


@pytest.fixture(scope="session")
def spec_of(fleet: Fleet) -> SpecOf:
    """The spec with other first deployments: one line. And what a test wants different of deployments."""

    def spec_of(*systems: System, deployments: Mapping[str, Any] | None = None) -> Spec:
        one_line = {"chains": {"assistant": {"tiers": [*map(str, systems), "backup"]}}}
        return load_spec(SPEC, one_line, {"deployments": deployments or {}})

    return spec_of


@pytest.fixture(scope="session")
def note_wait(request: pytest.FixtureRequest) -> Callable[[Wait], None]:
    """Keeps it for the summary of the run."""
    waits = request.config.stash.setdefault(_WAITS, [])
    return waits.append


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One system after the other, so that none is started twice for nothing."""
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[int, str]:
    system = item.callspec.params.get("system") if hasattr(item, "callspec") else None
    if not isinstance(system, System):
        return -1, ""
    return list(SYSTEMS).index(system.name), item.path.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    report = yield
    fleet: Fleet | None = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and fleet is not None:
        logs = {name: server.last_lines() for name, server in fleet.servers.items()}
        report.sections += [(f"log of {name}", lines) for name, lines in logs.items() if lines]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    waits = config.stash.get(_WAITS, [])
    if waits:
        terminalreporter.section("seconds from a kill to the first answer")
        for line in table(waits):
            terminalreporter.line(line)
