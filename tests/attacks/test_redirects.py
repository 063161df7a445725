"""A redirect leads no request to a stranger, whatever its address looks like.

That it does so by no kind of deployment, code and mode is in tests/litellm_adapter/test_redirects.py; here the server
tries everything that libraries read in different ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import litellm
import pytest

from llm_fallback import build_chat_model
from tests.asking import ask
from tests.attacks.servers import Answer, Asked, Server
from tests.thinning import combinations

PROMPT = "the secret prompt"
SECRETS = ("canary-key-0123456789", "canary-header-0123456789", PROMPT)
KEPT = (307, 308)
"""Codes by which the same request would be sent on, its body and all."""

LOCATIONS: dict[str, str] = {
    "another port": "http://127.0.0.1:{stranger}/steal",
    "another host": "http://localhost:{stranger}/steal",
    "another host of the same port": "http://localhost:{own}/steal",
    "without a scheme": "//127.0.0.1:{stranger}/steal",
    "without a scheme, one slash too many": "///127.0.0.1:{stranger}/steal",
    "with backslashes": "\\\\127.0.0.1:{stranger}\\steal",
    "with slashes of both kinds": "/\\127.0.0.1:{stranger}/steal",
    "with a tab in its scheme": "ht\ttp://127.0.0.1:{stranger}/steal",
    "in capitals": "HTTP://127.0.0.1:{stranger}/steal",
    "with space around": "  http://127.0.0.1:{stranger}/steal  ",
    "the server as its user": "http://127.0.0.1:{own}@127.0.0.1:{stranger}/steal",
    "the server as its user and password": "http://127.0.0.1:x@127.0.0.1:{stranger}/steal",
    "the server behind a fragment": "http://127.0.0.1:{stranger}#@127.0.0.1:{own}/",
    "the server behind a question": "http://127.0.0.1:{stranger}?@127.0.0.1:{own}/",
    "the server behind a backslash": "http://127.0.0.1:{stranger}\\@127.0.0.1:{own}/",
    "the server behind a slash": "http://127.0.0.1:{stranger}/@127.0.0.1:{own}/",
    "the server behind a NUL": "http://127.0.0.1:{stranger}%00@127.0.0.1:{own}/",
    "the server in front of an at sign, quoted": "http://127.0.0.1:{own}%40127.0.0.1:{stranger}/",
    "two at signs": "http://a@127.0.0.1:{own}@127.0.0.1:{stranger}/",
    "two ports": "http://127.0.0.1:{own}:{stranger}/",
    "a port of many digits": "http://127.0.0.1:0000{stranger}/",
    "a port beyond all": "http://127.0.0.1:99999/",
    "no port": "http://127.0.0.1:/",
    "a number for an address": "http://2130706433:{stranger}/",
    "an octal address": "http://0177.0.0.1:{stranger}/",
    "a hexadecimal address": "http://0x7f.1:{stranger}/",
    "a short address": "http://127.1:{stranger}/",
    "an address of zeros": "http://0.0.0.0:{stranger}/",
    "an address of six": "http://[::ffff:127.0.0.1]:{stranger}/",
    "an address of six that does not end": "http://[::1:{stranger}/",
    "a full stop behind": "http://127.0.0.1.:{stranger}/",
    "wide full stops": "http://127\u30020\u30020\u30021:{stranger}/",
    "wide digits": "http://\uff11\uff12\uff17.0.0.1:{stranger}/",
    "the other scheme": "https://localhost:{stranger}/steal",
    "a scheme of files": "file:///etc/passwd",
    "a scheme of data": "data:text/plain,hello",
    "a scheme of a shell": "javascript:alert(1)",
    "a scheme of another protocol": "ftp://127.0.0.1:{stranger}/",
    "a socket": "unix:/var/run/docker.sock",
    "the clouds' own address": "http://169.254.169.254/latest/meta-data/",
    "a header behind a carriage return": "http://127.0.0.1:{stranger}/\rX-Stolen: yes",
    "a header behind a line feed, quoted": "http://127.0.0.1:{stranger}/%0d%0aX-Stolen:%20yes",
    "control characters": "http://127.0.0.1:{stranger}/\x01\x1b[31m",
    "bytes that are no UTF-8": "http://127.0.0.1:{stranger}/\udcff\udcfe",
    "very long": "http://127.0.0.1:{stranger}/" + "a" * 30_000,
    "nothing but a slash and at sign": "//@127.0.0.1:{stranger}",
}
"""`{stranger}` is the port of a server that must hear nothing, `{own}` the deployment's own."""

PATHS = ("without a scheme, one slash too many", "with backslashes", "with slashes of both kinds")
"""Those that are a path of the same server: followed there, once."""

ROADS = ("direct", "relayed", "ping")


@pytest.fixture
def stranger() -> Iterator[Server]:
    with Server(lambda asked: Answer(200, (b"{}",))) as server:
        yield server


def model_of(server: Server) -> Any:
    deployment = {
        "backend": "vllm",
        "model": "m",
        "api_base": server.url,
        "api_key": SECRETS[0],
        "params": {"extra_headers": {"X-Api-Key": SECRETS[1]}},
    }
    chain = {"tiers": ["a"], "timeouts": {"total_s": 10}, "retries": {"max": 0}}
    return build_chat_model({"deployments": {"a": deployment}, "chains": {"c": chain}})


@pytest.mark.parametrize(
    ("where", "code", "road"),
    combinations(LOCATIONS, KEPT, ROADS, fast=lambda where, code, road: code == 307 and road == "direct"),
)
async def test_no_address_leads_a_request_to_a_stranger(where, code, road, stranger, monkeypatch):
    """The deployment has failed, once; nobody else is asked, nor the deployment itself by another name."""
    if road == "relayed":
        monkeypatch.setattr(litellm, "success_callback", [lambda *told: None])

    def moved(asked: Asked) -> Answer:
        location = LOCATIONS[where].format(stranger=stranger.server_port, own=server.server_port)
        return Answer(code, (b"moved, it says here",), {"Location": location})

    with Server(moved) as server, model_of(server) as model:
        if road == "ping":
            told = model.ping()["a"]
            failure, text = told["failure"], str(told)
        else:
            with pytest.raises(Exception) as caught:
                await ask(model, "ainvoke", PROMPT)
            (attempt,) = caught.value.attempts
            failure, text = attempt.failure, str(caught.value)
    assert stranger.received == []
    assert len([asked for asked in server.received if asked.method == "POST"]) == (2 if where in PATHS else 1)
    assert failure in ("server_error", "connection", "invalid_response")
    assert not [secret for secret in SECRETS if secret in text]
    assert text.isprintable() or text.replace("\n", "").isprintable()
