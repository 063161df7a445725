"""LangChain's own standard suites, over real HTTP and on fakes: all healthy, the primary down, the primary hanging.

Whoever swaps their chat model for a chain must not notice, and not even when its first deployment is gone.
"""

from __future__ import annotations

import base64
from typing import Any

import langchain_tests.integration_tests.chat_models as suite
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from llm_fallback import FallbackChatModel, load_spec
from llm_fallback.testing import Fail, FakeChatModel, FakeServer, Stall

MODEL = "fake-1"
"""The chain is named like the model it serves, as the suites' tests of a model override want it."""


def spec_of(server: FakeServer) -> Any:
    """Both deployments serve MODEL; the breaker is off, so that every test meets the primary as it is."""
    served = {"model": MODEL, "breaker": "off"}
    return load_spec(
        server.spec(
            deployments=dict.fromkeys(server.deployments, served),
            timeouts={"total_s": 20, "attempt_s": 0.3, "first_token_s": 0.3},
        )
    )


class Capabilities:
    """What we claim, all of it switched on."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return FallbackChatModel

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return False

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL

    @property
    def returns_usage_metadata(self) -> bool:
        return True


class _Downloads:
    """Stands in for httpx where the suite downloads a picture, a sound or a document to send: there is no network,
    and what is in them does not matter to a fake."""

    content = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    )

    @classmethod
    def get(cls, *_: Any, **__: Any) -> type[_Downloads]:
        return cls


class _Offline(Capabilities, ChatModelIntegrationTests):
    scripts: dict[str, Any] = {}

    @pytest.fixture(autouse=True)
    def _downloads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(suite, "httpx", _Downloads)
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "llm-fallback tests")


class _OverHTTP(_Offline):
    @pytest.fixture(autouse=True)
    def _server(self, _downloads: None) -> Any:
        with FakeServer(self.scripts, chain=MODEL) as server:
            type(self)._spec = spec_of(server)
            yield

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"spec": type(self)._spec}


class TestAllHealthy(_OverHTTP):
    """Every deployment answers."""

    scripts = {"primary": None, "backup": None}


class TestPrimaryDown(_OverHTTP):
    """The primary answers 500 to everything."""

    scripts = {"primary": Fail(500), "backup": None}


@pytest.mark.slow
class TestPrimaryHanging(_OverHTTP):
    """The primary takes every request and never answers."""

    scripts = {"primary": Stall(), "backup": None}


class _Faked(_Offline):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return FakeChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"scripts": self.scripts, "chain": MODEL, "timeouts": {"attempt_s": 5, "first_token_s": 5}}


class TestAllHealthyFaked(_Faked):
    """Every deployment answers."""

    scripts = {MODEL: None, "backup": None}


class TestPrimaryDownFaked(_Faked):
    """The primary answers 500 to everything, until its breaker opens."""

    scripts = {"primary": Fail(500), MODEL: None}


class TestPrimaryHangingFaked(_Faked):
    """The primary takes every request and never answers."""

    scripts = {"primary": Stall(), MODEL: None}


class TestUnits(Capabilities, ChatModelUnitTests):
    """Nothing is asked."""

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        params = super().standard_chat_model_params
        del params["api_key"]  # A key for all deployments alike is refused: each has its own in the spec.
        return params

    @property
    def chat_model_params(self) -> dict[str, Any]:
        served = {"backend": "vllm", "model": MODEL, "api_base": "http://127.0.0.1:9"}
        return {"spec": load_spec({"deployments": {"primary": served}, "chains": {MODEL: {"tiers": ["primary"]}}})}


class TestUnitsFaked(Capabilities, ChatModelUnitTests):
    """Likewise of a fake."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return FakeChatModel

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        params = super().standard_chat_model_params
        del params["api_key"]
        return params
