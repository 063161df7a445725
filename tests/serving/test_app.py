"""The application around the chats: who is let in, which models there are, what it tells of itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_fallback import SpecError, build_chat_model
from llm_fallback.serving import create_app
from llm_fallback.testing import Fail, FakeServer, Reply, fake_chat_model
from tests.serving.running import KEY, in_process, question

PATH = "/v1/chat/completions"
TWO_CHAINS: dict[str, Any] = {
    "deployments": {"a": {"model": "openai/gpt-4.1"}, "b": {"model": "openai/gpt-4.1-mini"}},
    "chains": {"assistant": {"tiers": ["a", "b"]}, "cheap": {"tiers": ["b"]}},
    "default_chain": "assistant",
}
WITH_KEYS = {**TWO_CHAINS, "serve": {"keys": ["${CALLER_KEY}", "sk-of-another"]}}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_the_models_are_the_chains() -> None:
    """In the order of the spec; each by its name, too."""
    with in_process(fake_chat_model(spec=TWO_CHAINS)) as client:
        listed = (await client.get("/v1/models")).json()
        cheap = (await client.get("/v1/models/cheap")).json()
        missing = await client.get("/v1/models/dear")
    assert listed["object"] == "list"
    assert [row["id"] for row in listed["data"]] == ["assistant", "cheap"]
    assert cheap == listed["data"][1]
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_clients_of_a_litellm_proxy_need_no_version_in_the_path() -> None:
    """As there: both forms of each path lead to the same."""
    with in_process(fake_chat_model(spec=TWO_CHAINS)) as client:
        for path in ("/models", "/models/cheap", "/models/dear"):
            assert (await client.get(path)).json() == (await client.get(f"/v1{path}")).json()
        reply = await client.post("/chat/completions", json=question(model="cheap"))
    assert reply.json()["llm_fallback"]["chain"] == "cheap"


@pytest.mark.parametrize("path", ["/", "/completions", "/v1", "/v2/chat/completions", "/v1/embeddings"])
async def test_a_path_that_there_is_not_is_told_where_to_go(path: str) -> None:
    """In the form of OpenAI's errors."""
    with in_process(fake_chat_model(spec=TWO_CHAINS)) as client:
        reply = await client.post(path, json={})
    assert reply.status_code == 404
    assert reply.json()["error"]["message"] == (
        f"POST {path}: Not Found; OpenAI's protocol is answered at /v1/chat/completions and /v1/models"
    )


async def test_a_model_that_is_asked_for_is_the_chain_of_that_name() -> None:
    """And no other of its deployments is asked."""
    model = fake_chat_model(spec=TWO_CHAINS)
    with in_process(model) as client:
        reply = await client.post(PATH, json=question(model="cheap"))
    assert reply.json()["llm_fallback"]["chain"] == "cheap"
    assert [request.deployment for request in model.received()] == ["b"]


@pytest.mark.parametrize("path", [PATH, "/v1/models", "/v1/models/cheap", "/metrics", "/nowhere"])
async def test_where_there_are_keys_nobody_without_one_gets_in(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without a header, nor with another scheme, part of a key, or one that is too long."""
    monkeypatch.setenv("CALLER_KEY", KEY)
    model = fake_chat_model(spec=WITH_KEYS)
    wrong: list[dict[str, str]] = [
        {},
        bearer(""),
        bearer(KEY[:-1]),
        bearer(KEY + "x"),
        bearer("\xe9"),
        {"authorization": f"Basic {KEY}"},
    ]
    with in_process(model, ("10.0.0.7", 5)) as client:
        for headers in wrong:
            sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            method = "POST" if path == PATH else "GET"
            reply = await client.request(method, path, json=question(), headers=sent)
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "invalid_api_key"
            assert KEY not in reply.text
    assert model.received() == []


@pytest.mark.parametrize("key", [KEY, "sk-of-another"])
async def test_each_of_the_keys_lets_in_from_wherever(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheme's case does not matter."""
    monkeypatch.setenv("CALLER_KEY", KEY)
    with in_process(fake_chat_model(spec=WITH_KEYS), ("10.0.0.7", 5)) as client:
        for scheme in ("Bearer", "bearer"):
            reply = await client.post(PATH, json=question(), headers={"authorization": f"{scheme} {key}"})
            assert reply.status_code == 200


async def test_health_and_readiness_need_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orchestrators have none."""
    monkeypatch.setenv("CALLER_KEY", KEY)
    with in_process(fake_chat_model(spec=WITH_KEYS)) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("::1", 200), ("10.0.0.7", 403), ("testclient", 200)])
async def test_without_keys_only_this_machine_is_answered(host: str, status: int) -> None:
    """Whoever runs the application, and wherever it listens."""
    with in_process(fake_chat_model(), (host, 5)) as client:
        reply = await client.post(PATH, json=question())
    assert reply.status_code == status
    assert ("serve.keys" in reply.text) == (status == 403)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:3000", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
async def test_without_keys_no_stranger_s_page_asks_from_a_browser_on_this_machine(origin: str, status: int) -> None:
    """A browser sends a page's request to the loopback without asking anybody, and says where the page is from."""
    model = fake_chat_model()
    with in_process(model) as client:
        reply = await client.post(PATH, json=question(), headers={"origin": origin, "content-type": "text/plain"})
    assert reply.status_code == status
    assert (model.received() == []) == (status == 403)


def test_a_key_whose_variable_is_not_set_is_a_mistake_of_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its place; an empty key would let everybody in. The chat model itself needs none of them."""
    monkeypatch.delenv("CALLER_KEY", raising=False)
    with FakeServer({"only": "fine"}) as server:
        spec = {**server.spec(), "serve": {"keys": ["${CALLER_KEY}"]}}
        with build_chat_model(spec) as model:
            assert model.invoke("hi").content == "fine"
        with pytest.raises(SpecError, match=r"serve\.keys\[0\]: the variable CALLER_KEY is not set"):
            create_app(spec)
        monkeypatch.setenv("CALLER_KEY", "")
        with pytest.raises(SpecError, match=r"serve\.keys\[0\]: is empty"):
            create_app(spec)


async def test_readiness_is_whether_anybody_could_be_asked() -> None:
    """An open breaker of one chain's only deployment is told, and of all chains it is 503."""
    model = fake_chat_model({"a": Fail(401), "b": Fail(401)}, spec=TWO_CHAINS)
    with in_process(model) as client:
        await client.post(PATH, json=question(model="cheap"))
        half = await client.get("/ready")
        await client.post(PATH, json=question(model="assistant"))
        none = await client.get("/ready")
        alive = await client.get("/health")
    assert half.status_code == 200
    assert half.json()["chains"] == {"assistant": True, "cheap": False}
    assert none.status_code == 503
    assert none.json()["chains"] == {"assistant": False, "cheap": False}
    assert alive.status_code == 200


async def test_metrics_count_calls_and_attempts() -> None:
    """In Prometheus's text format."""
    model = fake_chat_model({"primary": Fail(500), "backup": "fine"})
    with in_process(model) as client:
        await client.post(PATH, json=question())
        text = (await client.get("/metrics")).text
    assert 'llm_fallback_calls_total{chain="default",failure="",outcome="succeeded"} 1.0' in text
    assert 'deployment="primary",failure="server_error",outcome="failed"} 1.0' in text


async def test_while_it_drains_what_was_begun_goes_on_and_what_comes_is_sent_elsewhere() -> None:
    """503 with Retry-After, and a connection that ends; readiness says so, health does not."""
    model = fake_chat_model({"only": Reply("fine")})
    with in_process(model) as client:
        app = client._transport.app  # type: ignore[attr-defined]
        app.state.chains.is_draining = True
        refused = await client.post(PATH, json=question())
        ready, alive = await client.get("/ready"), await client.get("/health")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["connection"] == "close"
    assert refused.json()["error"]["code"] == "shutting_down"
    assert (ready.status_code, ready.json()["draining"]) == (503, True)
    assert alive.status_code == 200
    assert app.state.chains.in_flight == 0


async def test_what_a_client_still_sends_is_taken_before_it_is_sent_elsewhere() -> None:
    """Its connection ends with the answer; with a part of the body unread the system would reset it instead."""
    sent = []

    async def body() -> AsyncIterator[bytes]:
        for part in (b"{", b"}"):
            await asyncio.sleep(0.01)
            sent.append(part)
            yield part

    with in_process(fake_chat_model({"only": "fine"})) as client:
        client._transport.app.state.chains.is_draining = True  # type: ignore[attr-defined]
        refused = await client.post(PATH, content=body())
    assert (refused.status_code, sent) == (503, [b"{", b"}"])


async def test_listeners_of_the_model_and_of_the_application_hear_of_each_call() -> None:
    """As they do in Python."""
    of_model: list[Any] = []
    of_app: list[Any] = []
    model = fake_chat_model({"a": Fail(500), "b": "fine"}, listeners=[of_model.append])
    with in_process(model, listeners=[of_app.append]) as client:
        await client.post(PATH, json=question())
    assert [event.name for event in of_app] == [
        "llm_fallback.attempt_failed",
        "llm_fallback.fell_back",
        "llm_fallback.call_ended",
    ]
    assert of_app == of_model


async def test_the_spec_is_what_the_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file or several, later ones over earlier ones; without any it says which variable to set."""
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(yaml.safe_dump({**TWO_CHAINS, "deployments": {"a": {"model": "x/y"}, "b": {"model": "x/y"}}}))
    overlay.write_text("default_chain: cheap\n")
    monkeypatch.delenv("LLM_FALLBACK_SPEC", raising=False)
    with pytest.raises(SpecError, match="set LLM_FALLBACK_SPEC to its path"):
        create_app()
    monkeypatch.setenv("LLM_FALLBACK_SPEC", f"{base}:{overlay}")
    app = create_app()
    assert app.state.chains.model.runtime.plan.default_chain == "cheap"


async def test_a_reload_brings_chains_and_keys_or_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong spec leaves all as it was."""
    monkeypatch.delenv("CALLER_KEY", raising=False)
    with FakeServer({"a": "fine", "b": "fine"}) as server:
        spec = server.spec()
        app = create_app(spec)
        chains = app.state.chains
        renamed = {**spec, "chains": {**spec["chains"], "further": {"tiers": ["b"]}}, "default_chain": "default"}
        from llm_fallback import load_spec

        with pytest.raises(SpecError):
            chains.reload(load_spec({**renamed, "serve": {"keys": ["${CALLER_KEY}"]}}))
        assert list(chains.model.runtime.plan.chains) == ["default"]
        assert not chains.keys
        chains.reload(load_spec({**renamed, "serve": {"keys": [KEY]}}))
    assert list(chains.model.runtime.plan.chains) == ["default", "further"]
    assert chains.keys.accept([(b"authorization", f"Bearer {KEY}".encode())])


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", PATH, 405), ("POST", "/v1/models", 405)]
)
async def test_a_path_or_a_method_that_there_is_not_is_told_as_openai_tells_it(
    method: str, path: str, status: int
) -> None:
    """Its clients read JSON."""
    with in_process(fake_chat_model()) as client:
        reply = await client.request(method, path)
    assert reply.status_code == status
    assert path in reply.json()["error"]["message"]


@pytest.mark.slow
async def test_its_model_is_closed_however_it_ends() -> None:
    """Also where its server is cancelled or fails; a model that was given stays open."""
    app, given = create_app(TWO_CHAINS), fake_chat_model()
    for each in (app, create_app(given)):
        with pytest.raises(asyncio.CancelledError):
            async with each.router.lifespan_context(each):
                raise asyncio.CancelledError
    with pytest.raises(RuntimeError, match="this model is closed"):
        await app.state.chains.model.ainvoke("hi")
    assert (await given.ainvoke("hi")).text


def test_without_the_extra_the_missing_packages_are_named() -> None:
    """And importing the package loads none of them."""
    program = """
import sys
sys.modules["starlette"] = sys.modules["starlette.applications"] = None
import llm_fallback.serving
try:
    llm_fallback.serving.create_app
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert 'pip install "langchain-llm-fallback[serve]"' in done.stdout
