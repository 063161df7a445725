"""Nothing that a message points to is fetched: not for any provider, in any kind of part, by us or by litellm."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import litellm
import pytest

from llm_fallback import build_chat_model
from llm_fallback.spec.providers import PROVIDERS
from tests.attacks.servers import Answer, Server

PICTURE = b"\x89PNG\r\n\x1a\n" + b"0" * 50
SECRET = b"what-stands-in-the-file"
NUMBERS = count()
CALLBACKS = (
    *("callbacks", "success_callback", "failure_callback", "input_callback"),
    *("_async_success_callback", "_async_failure_callback"),
)


def part_of(kind: str, **words: Any) -> Callable[[str], dict[str, Any]]:
    """A part of a message with an address where `words` has `{}`, in its own place or deeper."""

    def fill(value: Any, address: str) -> Any:
        if isinstance(value, dict):
            return {name: fill(item, address) for name, item in value.items()}
        return value.replace("{}", address) if isinstance(value, str) else value

    return lambda address: {"type": kind, **fill(words, address)}


PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "OpenAI's picture": part_of("image_url", image_url={"url": "{}.png"}),
    "OpenAI's picture as a text": part_of("image_url", image_url="{}.png"),
    "OpenAI's picture with a format": part_of("image_url", image_url={"url": "{}", "format": "image/png"}),
    "OpenAI's picture that is a PDF": part_of("image_url", image_url={"url": "{}.pdf"}),
    "OpenAI's file by its name": part_of("file", file={"file_id": "{}.pdf"}),
    "OpenAI's file by its data": part_of("file", file={"file_data": "{}.pdf", "filename": "a.pdf"}),
    "OpenAI's file by its address": part_of("file", file={"file_url": "{}.pdf"}),
    "OpenAI's sound": part_of("input_audio", input_audio={"data": "{}.mp3", "format": "mp3"}),
    "OpenAI's newer file": part_of("input_file", file_url="{}.pdf"),
    "OpenAI's newer picture": part_of("input_image", image_url="{}.png"),
    "vLLM's video": part_of("video_url", video_url={"url": "{}.mp4"}),
    "LangChain's picture": part_of("image", url="{}.png"),
    "LangChain's older picture": part_of("image", source_type="url", url="{}.png"),
    "LangChain's file": part_of("file", url="{}.pdf", mime_type="application/pdf"),
    "LangChain's sound": part_of("audio", url="{}.mp3", mime_type="audio/mp3"),
    "LangChain's video": part_of("video", url="{}.mp4", mime_type="video/mp4"),
    "Anthropic's picture": part_of("image", source={"type": "url", "url": "{}.png"}),
    "Anthropic's document": part_of("document", source={"type": "url", "url": "{}.pdf"}),
    "Google's file": part_of("media", file_uri="{}.png", mime_type="image/png"),
}

MODELS = {
    "bedrock": (
        "anthropic.claude-3-5-sonnet-20240620-v1:0",
        "invoke/anthropic.claude-3-5-sonnet-20240620-v1:0",
        "us.amazon.nova-pro-v1:0",
    ),
    "vertex_ai": ("gemini-2.5-flash", "claude-sonnet-4-5@20250929", "mistral-large@2411", "meta/llama-3"),
    "azure_ai": ("claude-sonnet-4-5", "gpt-4o"),
    "snowflake": ("claude-sonnet-4-5", "llama3"),
    "databricks": ("claude-sonnet-4-5", "llama3"),
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "azure": {"api_version": "2025-04-01"},
    "bedrock": {"aws_access_key_id": "AKIA", "aws_secret_access_key": "x" * 40, "aws_region_name": "us-east-1"},
    "vertex_ai": {"vertex_project": "p", "vertex_location": "us-central1"},
    "watsonx": {"project_id": "p", "token": "t"},
}
NOT_ASKED_OVER_HTTP = {
    *("aiohttp_openai", "custom", "petals", "sagemaker", "sagemaker_chat", "gigachat", "replicate", "watsonx_text"),
    *("vllm", "vertex_ai_beta", "github_copilot", "chatgpt", "huggingface", "text-completion-codestral", "oci"),
}
"""Those that litellm asks by other libraries, or that log in or look something up elsewhere before they translate."""
CASES = [
    (provider, model)
    for provider in sorted(PROVIDERS - NOT_ASKED_OVER_HTTP)
    for model in MODELS.get(provider, ("gemini-2.5-flash" if provider == "gemini" else "m/m",))
]
TELLING = ("anthropic", "azure_ai", "bedrock", "gemini", "hosted_vllm", "ollama", "openai", "vertex_ai")


@pytest.fixture
def pictures(monkeypatch) -> Iterator[Server]:
    """A server of pictures and files that litellm takes for one on the internet."""
    monkeypatch.setattr(litellm, "user_url_validation", False)
    for name in CALLBACKS:  # Some providers of litellm's add one when they are loaded.
        monkeypatch.setattr(litellm, name, list(getattr(litellm, name)))
    with Server(lambda asked: Answer(200, (PICTURE,), {"Content-Type": "image/png"})) as server:
        yield server


@pytest.fixture
def upstream(monkeypatch) -> Iterator[Server]:
    """The provider; Google's login is spared."""
    from litellm.llms.vertex_ai.vertex_llm_base import VertexBase

    async def token(self: Any, **words: Any) -> tuple[str, str]:
        return "token", "p"

    monkeypatch.setattr(VertexBase, "_ensure_access_token_async", token)
    monkeypatch.setattr(VertexBase, "_ensure_access_token", lambda self, **words: ("token", "p"))
    with Server(lambda asked: Answer(400, (b'{"error": {"message": "no"}}',))) as server:
        yield server


def ask_with(provider: str, model: str, parts: list[dict[str, Any]], upstream: Server) -> None:
    deployment: dict[str, Any] = {
        "model": f"{provider}/{model}",
        "api_base": upstream.url,
        "params": PARAMETERS.get(provider, {}),
        **({} if provider == "bedrock" else {"api_key": "sk-0123456789"}),
    }
    chain = {"tiers": ["a"], "timeouts": {"total_s": 5}, "retries": {"max": 0}}
    with build_chat_model({"deployments": {"a": deployment}, "chains": {"c": chain}}) as asked:
        for part in parts:
            with pytest.raises(Exception):
                asked.invoke([{"role": "user", "content": [{"type": "text", "text": "?"}, part]}])


@pytest.mark.parametrize(
    ("provider", "model"),
    [pytest.param(*case, marks=() if case[0] in TELLING else pytest.mark.slow, id="/".join(case)) for case in CASES],
)
def test_no_link_is_fetched(provider, model, pictures, upstream):
    """Each address is asked for once at most, as litellm remembers what it fetched, so each is a new one."""
    for name, part in PARTS.items():
        ask_with(provider, model, [part(f"{pictures.url}/{next(NUMBERS)}")], upstream)
        assert not pictures.received, name


@pytest.mark.parametrize("model", MODELS["bedrock"])
def test_what_a_tool_brings_is_not_fetched_either(model, pictures, upstream):
    """A result has parts of its own."""
    address = f"{pictures.url}/{next(NUMBERS)}"
    inner = [PARTS["OpenAI's picture"](address), PARTS["Anthropic's document"](address)]
    ask_with("bedrock", model, [{"type": "tool_result", "tool_use_id": "1", "content": inner}], upstream)
    assert not pictures.received


PATHS = {
    "a path": "{}",
    "a file's address": "file://{}",
    "a file's address with a host": "file://localhost{}",
    "a path from here": "./{}",
    "a path upwards": "../../../../../../../..{}",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("provider", TELLING)
def test_no_file_of_this_machine_is_sent(provider, path, tmp_path, upstream, pictures):
    """A message may name one, and no request has what stands in it."""
    for ending in ("png", "pdf"):
        (tmp_path / f"secret.{ending}").write_bytes(PICTURE + SECRET)
    file = tmp_path / "secret"
    where = PATHS[path].format(os.path.relpath(file) if path == "a path from here" else file)
    model = MODELS.get(provider, ("gemini-2.5-flash" if provider == "gemini" else "m/m",))[0]
    for kind in ("OpenAI's picture", "OpenAI's file by its name", "OpenAI's file by its data", "LangChain's picture"):
        ask_with(provider, model, [PARTS[kind](where)], upstream)
    told = b"".join(asked.body for asked in upstream.received)
    assert not [part for part in parts_of(PICTURE + SECRET) if part in told]


def parts_of(data: bytes) -> list[bytes]:
    """What a request has of a file that it holds, plain or as base64."""
    return [SECRET, *(b64encode(b"0" * before + data)[40:60] for before in range(3))]
