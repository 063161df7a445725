"""The pytest plugin: fakes as fixtures, and a guard against the network.

pytest loads it wherever this library is installed, also for tests that do not use it: so it imports nothing before a
test asks for a fixture, and guards only tests that ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llm_fallback.testing import FakeChatModel, FakeServer
    from llm_fallback.testing.network_guard import Guard

_INI = "llm_no_network"
_GUARD: pytest.StashKey[Guard] = pytest.StashKey()
_MARKERS = (
    "fake_llm(*, spec, chain, ...): what every fake_llm(...) of the test is made with unless it says otherwise",
    "fake_llm_server(scripts, *, chain): what the fixture of that name serves, as FakeServer takes it",
    "no_network: fail the test if it would reach beyond this machine",
    f"allow_network: let the test reach beyond this machine although {_INI} is on",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the ini option."""
    parser.addini(_INI, "fail every test that would reach beyond this machine", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, for --strict-markers and --markers."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture
def fake_llm(request: pytest.FixtureRequest) -> Callable[..., FakeChatModel]:
    """`llm_fallback.testing.fake_chat_model`: a chat model that fails as scripted, without a network.

    The nearest marker of the same name has arguments for it, such as a spec.
    """
    from llm_fallback.testing import fake_chat_model

    marker = request.node.get_closest_marker("fake_llm")
    return partial(fake_chat_model, *marker.args, **marker.kwargs) if marker else fake_chat_model


@pytest.fixture
def fake_llm_server(request: pytest.FixtureRequest) -> Generator[FakeServer, None, None]:
    """A running `llm_fallback.testing.FakeServer`, with the scripts of the marker of the same name."""
    from llm_fallback.testing import FakeServer

    marker = request.node.get_closest_marker("fake_llm_server")
    server = FakeServer(*marker.args, **marker.kwargs) if marker else FakeServer()
    with server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Guard a test and its fixtures, if it asks for that."""
    if not _is_guarded(item):
        return (yield)
    from llm_fallback.testing.network_guard import Guard

    with Guard() as item.stash[_GUARD]:
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose fixtures swallowed the guard's error, as code with a fallback does."""
    return (yield from _with_complaint(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """The same for the test itself."""
    return (yield from _with_complaint(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """The same for the teardown of its fixtures."""
    return (yield from _with_complaint(item))


def _is_guarded(item: pytest.Item) -> bool:
    if item.get_closest_marker("allow_network"):
        return False
    return item.get_closest_marker("no_network") is not None or bool(item.config.getini(_INI))


def _with_complaint(item: pytest.Item) -> Generator[None, object, object]:
    guard = item.stash.get(_GUARD, None)
    if guard is None:
        return (yield)
    try:
        result = yield
    except BaseException as error:
        guard.explain(error)
        raise
    complaint = guard.complaint()
    if complaint is not None:
        pytest.fail(complaint, pytrace=False)
    return result
