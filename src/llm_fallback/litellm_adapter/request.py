"""A request to one deployment in litellm's words, with the deployment's own headers in place of anybody else's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import SecretStr

from llm_fallback.engine.encoding import why_not_json
from llm_fallback.engine.transport import Fault, Unsupported
from llm_fallback.litellm_adapter.clients import SOCKET_TIMEOUT_S
from llm_fallback.litellm_adapter.hosts import may_be_asked
from llm_fallback.litellm_adapter.links import places_of_links
from llm_fallback.litellm_adapter.logins import TokenProvider
from llm_fallback.litellm_adapter.media import media_in
from llm_fallback.litellm_adapter.providers import provider_called
from llm_fallback.litellm_adapter.request_guard import RequestGuard
from llm_fallback.litellm_adapter.thinking import for_deployment
from llm_fallback.plan.plan import Target
from llm_fallback.spec.secrets import unmask

SAMPLING = frozenset(
    {
        *("temperature", "top_p", "top_k", "n", "presence_penalty", "frequency_penalty", "seed", "stop"),
        *("logit_bias", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens"),
        *("parallel_tool_calls", "reasoning_effort", "verbosity", "user"),
    }
)
"""Parameters a reply can do without; they are dropped for a deployment that does not take them."""

_DECIDING = SAMPLING | {"thinking"}
"""Parameters by whose values litellm decides which of `SAMPLING` a model takes."""


def sampling_of(request: Mapping[str, Any]) -> Hashable:
    """What a request asks for, as far as it decides which parameters are dropped: o3 takes a temperature of 1 and no
    other, and GPT-5 one of 0.3, unless it is to think."""
    return tuple([(name, repr(value)) for name, value in request.items() if name in _DECIDING])


class NotEncodable(ValueError):
    """A request that cannot be written as JSON. litellm would send some of it in another form, or as none."""


class DeploymentRequest:
    """A request to one deployment, in litellm's words."""

    def __init__(
        self,
        target: Target,
        request: Mapping[str, Any],
        api_key: SecretStr | None,
        dropped: set[str],
        token_provider: TokenProvider | None = None,
    ) -> None:
        """`dropped` are the parameters the deployment was found not to take in a request like this; what this one finds
        is added. `token_provider` stands in for the function that the deployment names."""
        self.target, self.key, self.dropped = target, api_key, dropped
        self._token_provider = token_provider
        self._request, self.left_out = for_deployment(target, request)
        self.messages: Sequence[Mapping[str, Any]] = self._request["messages"]
        """As the caller wrote them, with the thoughts the deployment may have; nobody may change them."""
        self.streamed = bool(request.get("stream"))
        # Nobody gave a key: what litellm makes of none is taken off again.
        # By what the provider's own variables, or parameters of the deployment, say of it.
        self._may_log_in = target.uses_provider_credentials or target.names_identity
        keyless = api_key is None and not self._may_log_in and provider_called(target.litellm_provider).takes_a_key
        self.invented_headers = _LOGINS - _names(target.parameters) if keyless else frozenset()
        """Names, in lower case, of headers that carry no login, though they look like it."""

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return tuple(sorted(self.dropped & self._request.keys() | self.left_out))

    @property
    def words(self) -> dict[str, Any]:
        """What the request says beside its messages."""
        return {name: value for name, value in self._request.items() if name != "messages"}

    def parameters(self) -> dict[str, Any]:
        """Parameters of `litellm.completion`, which may do with them as it likes. Raises NotEncodable."""
        why = why_not_json(self._request)
        if why is not None:
            raise NotEncodable(f"the request cannot be written as JSON: {why}")
        target, dropped = self.target, self.dropped | self.left_out
        parameters: dict[str, Any] = {
            **unmask({name: value for name, value in target.parameters.items() if name not in dropped}),
            **{name: _copied(value) for name, value in self._request.items() if name not in dropped},
            "model": target.parameters["model"],
            "timeout": SOCKET_TIMEOUT_S,
            "num_retries": 0,
            "max_retries": 0,
        }
        if self._token_provider is not None:
            parameters["azure_ad_token_provider"] = self._token_provider
        if self.key is not None:
            parameters["api_key"] = self.key.get_secret_value()
        elif target.signs:
            # None would be a token that litellm finds in the environment, sent in the signature's place.
            parameters["api_key"] = ""
        elif not self._may_log_in:
            # litellm would look for somebody else's key; this one is taken off again, or is none.
            parameters["api_key"] = "no-key"
        headers = deployment_headers(parameters)
        if headers:
            parameters |= {"headers": None, "extra_headers": headers}
        return parameters

    def guard(self) -> RequestGuard:
        """What may not be fetched on its way, who may be asked, and what has to be in it."""
        row = provider_called(self.target.litellm_provider)
        media, is_own = media_in(self.messages, row.rewritten_media), partial(may_be_asked, self.target, row.login_host)
        return RequestGuard(
            self.target.most_reply_bytes, places_of_links(self.messages), is_own, media, self.invented_headers
        )

    def refused(self, error: Exception) -> Unsupported | None:
        """What follows from litellm's refusal of parameters: None to ask again, without those a reply can do without.

        litellm names them in stages: what it objects to next shows only when the first are gone. It also names others,
        by which it decides, after those that it objects to; so they go one by one.
        """
        named = [name for name in self._named_in(str(error)) if name not in self.dropped | self.left_out]
        if not named or not SAMPLING.issuperset(named):
            return Unsupported(tuple(sorted(named)))
        self.dropped.add(named[0])
        return None

    def _named_in(self, text: str) -> list[str]:
        """The parameters that a text names, in its order."""
        parameters = {*self._request, *self.target.parameters} - {"model", "messages", "stream"}
        return [word for word in dict.fromkeys(re.findall(r"\w+", text)) if word in parameters]


async def guarded(ask: Callable[[], Awaitable[Any]], fault_of: Callable[[Exception], Fault]) -> Any:
    """What `ask` brings: an answer, None at the end of a stream, or the fault its exception is.

    Exceptions are turned into values inside and raised, if at all, outside of the `except`, so that none takes the
    frames below, and the key in them, along.
    """
    cancelled = False
    try:
        return await ask()
    except StopAsyncIteration:
        return None
    except asyncio.CancelledError:
        cancelled = True
    except Exception as error:  # noqa: BLE001 - whatever an upstream library raises is a fault to classify
        return fault_of(error)
    if cancelled:
        raise asyncio.CancelledError
    return None


def _copied(value: Any) -> Any:
    """Containers copied at every level: litellm rewrites the messages it is given, and the next deployment needs
    them as they were."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


_WORDS = ("headers", "extra_headers")
"""litellm's words for them; of two that name the same header it takes the second."""


def deployment_headers(parameters: Mapping[str, Any]) -> dict[str, str]:
    """The headers that a deployment's parameters name, with secrets in clear. Numbers become text, because YAML reads
    numbers where text is meant and HTTP libraries send none; null leaves a header out."""
    mappings = [parameters[word] for word in _WORDS if isinstance(parameters.get(word), Mapping)]
    return {str(name): str(text) for headers in mappings for name, text in unmask(headers).items() if text is not None}


def with_headers(headers: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Headers with `extra` in place of those of the same name, whatever its case: a key that is sent beside the login
    that was to replace it has gone to somebody it was not meant for."""
    names = {name.lower() for name in extra}
    return {**{name: text for name, text in headers.items() if name.lower() not in names}, **extra}


_LOGINS = frozenset({"authorization", "x-api-key", "x-goog-api-key"})
"""Headers, in lower case, in which litellm puts a key."""


def _names(parameters: Mapping[str, Any]) -> frozenset[str]:
    """The names, in lower case, of a deployment's own headers."""
    if {*_WORDS}.isdisjoint(parameters):
        return frozenset()
    return frozenset(name.lower() for name in deployment_headers(parameters))


_JOINED = frozenset({"anthropic-beta"})
"""Headers, in lower case, to which litellm adds words of its own."""


def overriding_headers(parameters: Mapping[str, Any]) -> dict[str, str]:
    """The headers of a deployment that go out as they are, whatever litellm makes of them."""
    return {name: text for name, text in deployment_headers(parameters).items() if name.lower() not in _JOINED}
