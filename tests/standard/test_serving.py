"""LangChain's standard suite through ChatOpenAI against a served chain, its primary dead.

Whoever speaks OpenAI's protocol to the chain must not notice either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from tests.serving.running import served
from tests.standard.test_langchain_suites import MODEL, _Offline, spec_of

from llm_fallback.testing import Fail, FakeServer


class TestThroughChatOpenAI(_Offline):
    """The primary answers 500 to everything."""

    scripts = {"primary": Fail(500), "backup": None}
    url = ""

    @pytest.fixture(autouse=True)
    def _server(self, _downloads: None) -> Iterator[None]:
        with FakeServer(self.scripts, chain=MODEL) as server, served(spec_of(server)) as url:
            type(self).url = url
            yield

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": f"{type(self).url}/v1", "api_key": "sk-none", "stream_usage": True}
