"""The chain of production with fakes in it; and at the end, what the run needed."""

import sys
import time
from functools import partial
from pathlib import Path

import pytest

from llm_fallback import load_spec

reached = []
sys.addaudithook(lambda event, args: reached.append(args[1:]) if event == "socket.connect" else None)
took = []


@pytest.fixture(scope="session")
def spec():
    """Read once: YAML is the slowest part of a fake."""
    return load_spec(Path(__file__).with_name("llm-fallback.yaml"))


@pytest.fixture
def chain(fake_llm, spec):
    return partial(fake_llm, spec=spec)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    began = time.process_time()
    result = yield
    took.append(time.process_time() - began)
    return result


def pytest_terminal_summary(terminalreporter):
    heavy = sorted({"litellm", "langchain_litellm", "openai"} & set(sys.modules))
    # The first test loads LangChain.
    seconds = sum(took[1:])
    terminalreporter.write_line(f"needed: modules {heavy}, connections {reached}")
    terminalreporter.write_line(
        f"{len(took)} tests: {took[0]:.2f} s of CPU for the first, {seconds:.2f} s for the rest"
    )
