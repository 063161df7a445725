"""What users import: the names, that they come lazily, and that they are typed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.resources import files

import pytest

import llm_fallback
import llm_fallback.testing

PUBLIC = {
    *("build_chat_model", "build_router", "build_runnables", "check", "fallback_chain", "load_spec"),
    *("FallbackChatModel", "Recipe", "Spec"),
    *("LLMFallbackError", "SpecError", "Mistake", "ChainExhausted", "StreamBroken", "BudgetExceeded"),
    *("Event", "AttemptFailed", "BreakerOpened", "CallEnded", "FellBack"),
    *("Attempt", "Record", "Skip"),
    *("BudgetCallbackHandler", "CostCallbackHandler", "LatencyCallbackHandler", "Ledger"),
    *("get_cost_callback", "get_latency_callback"),
    *("AttemptMetadata", "CallMetadata", "SkipMetadata", "DeploymentState", "Explanation", "PingResult"),
    *("ModelState", "FleetStatus"),
    *("BudgetSnapshot", "CostSnapshot", "LatencySnapshot", "ModelOptions", "SpecDict"),
    *("Failure", "Outcome", "SkipReason"),
}
KIT = {
    *("FakeChatModel", "FakeServer", "Received", "fake_chat_model", "assert_attempts", "recorded"),
    *("Reply", "Fail", "Stall", "Cut", "Garbage", "Empty", "JumpingClock", "RealClock"),
}
HANDLERS = {
    *("BudgetCallbackHandler", "CostCallbackHandler", "LatencyCallbackHandler"),
    *("get_cost_callback", "get_latency_callback"),
}
MODULES = {
    "callbacks": HANDLERS,
    "cli": {"main"},
    "errors": {"BudgetExceeded", "ChainExhausted", "LLMFallbackError", "Mistake", "SpecError", "StreamBroken"},
    "events": {
        *("Attempt", "AttemptFailed", "BreakerOpened", "CallEnded", "Event", "Failure", "FellBack"),
        *("Record", "Skip", "Stitch", "Usage"),
    },
    "exporters.jsonl": {"CallLog"},
    "exporters.otel": {"OTelExporter"},
    "exporters.prometheus": {"PrometheusExporter"},
    "ledger": {"Ledger", "Snapshot", "merge"},
    "serving": {"create_app"},
    "simulate": {"Outcome", "Trouble", "simulate"},
    "spec": {"Spec", "json_schema", "load_spec"},
    "testing": KIT,
    "testing.plugin": {"fake_llm", "fake_llm_server"},
}
"""Modules that may be imported by their path, and what pages, examples and checks take from them."""
HEAVY = ("litellm", "langchain", "langchain_core", "langchain_litellm", "openai", "aiohttp")


def loaded_by(statement: str) -> set[str]:
    """The top-level packages a fresh process has after a statement."""
    program = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_the_package_offers_exactly_these_names():
    """A name more is a promise more, a name less breaks somebody's import."""
    assert set(llm_fallback.__all__) == PUBLIC
    assert llm_fallback.__all__ == sorted(llm_fallback.__all__)


def test_the_testing_kit_offers_exactly_these_names():
    """Likewise for tests that were written against it."""
    assert set(llm_fallback.testing.__all__) == KIT


@pytest.mark.parametrize("name", MODULES)
def test_a_documented_module_has_its_names(name):
    """Whatever else moves inside of the package, these paths stay."""
    module = importlib.import_module(f"llm_fallback.{name}")
    assert [wanted for wanted in sorted(MODULES[name]) if not hasattr(module, wanted)] == []


@pytest.mark.parametrize("package", ["llm_fallback", "llm_fallback.testing"])
def test_every_name_resolves_and_is_listed(package):
    """Lazy names are found by `from ... import`, by `dir` and so by completion in an editor."""
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", ["llm_fallback", "llm_fallback.testing"])
def test_a_wrong_name_is_an_attribute_error_that_says_it(package):
    """Lazy lookup fails like any other, so `hasattr` and `from ... import` behave."""
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'build_chat_modle'"):
        importlib.import_module(package).build_chat_modle  # noqa: B018 - the lookup is the test


@pytest.mark.parametrize(
    "statement",
    [
        "import llm_fallback",
        "import llm_fallback.testing",
        "from llm_fallback.testing import Cut, Empty, Fail, Garbage, Reply, Stall, assert_attempts",
    ],
)
def test_an_import_loads_neither_litellm_nor_langchain(statement):
    """litellm alone takes seconds; who only imports, or writes scripts for a fake, does not wait for it."""
    assert not loaded_by(statement) & set(HEAVY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "from llm_fallback import check, load_spec",
        "from llm_fallback import ChainExhausted, SpecError, StreamBroken",
        "from llm_fallback import AttemptFailed, CallEnded, Record",
        "from llm_fallback.testing import FakeServer",
        "from llm_fallback.testing import fake_chat_model; fake_chat_model().invoke('hi')",
    ],
)
def test_what_needs_no_provider_loads_no_litellm(statement):
    """A spec is checked, an error handled and a server faked without it."""
    assert not loaded_by(statement) & {"litellm", "langchain_litellm", "openai"}


def test_importing_keeps_litellm_from_asking_a_public_host_for_prices():
    """Set only where it is unset: who wants the list from the net may say so."""
    told = "import os, llm_fallback; print(os.environ['LITELLM_LOCAL_MODEL_COST_MAP'])"
    for given, expected in ((None, "True"), ("False", "False")):
        environment = {} if given is None else {"LITELLM_LOCAL_MODEL_COST_MAP": given}
        done = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_type_checkers_are_told_that_the_package_is_typed():
    """Without py.typed our annotations count for nothing outside of this repository."""
    assert files("llm_fallback").joinpath("py.typed").is_file()


def test_the_version_is_the_distributions():
    """One number, whoever asks for it."""
    from importlib.metadata import version

    assert llm_fallback.__version__ == version("langchain-llm-fallback")
