"""What litellm is asked for one attempt, whichever way it is asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from llm_fallback.exchange import Unsupported
from llm_fallback.faults import Fault
from llm_fallback.plan import Target
from llm_fallback.scrub import revealed
from llm_fallback.seam.clients import SOCKET_TIMEOUT_S
from llm_fallback.seam.headers import has_login, own_headers
from llm_fallback.seam.templates import Templates

SAMPLING = frozenset(
    {
        *("temperature", "top_p", "top_k", "n", "presence_penalty", "frequency_penalty", "seed", "stop"),
        *("logit_bias", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens"),
        *("parallel_tool_calls", "reasoning_effort", "verbosity", "user"),
    }
)
"""Parameters a reply can do without; they are dropped for a deployment that does not take them."""


@dataclass(slots=True)
class Learnt:
    """What calls of one deployment taught."""

    dropped: tuple[str, ...] = ()
    """Parameters it was found not to take."""
    templates: Templates = field(default_factory=Templates)
    is_left_to_litellm: bool = False
    """Whether its requests were found not to be what litellm translates into one request."""


class Asking:
    """A request to one deployment, in litellm's words."""

    def __init__(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None, learnt: Learnt) -> None:
        self.target, self._request, self.key, self.learnt = target, request, api_key, learnt
        self.streamed = bool(request.get("stream"))
        # Nobody gave an authorization: the one litellm invents is taken off again.
        self.keyless = api_key is None and not target.borrows_key and not has_login(target.parameters)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Parameters the deployment was found not to take, whether this request has them or not."""
        return self.learnt.dropped

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return tuple(name for name in self.dropped if name in self._request)

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """As the caller wrote them; nobody may change them."""
        messages: Sequence[Mapping[str, Any]] = self._request["messages"]
        return messages

    @property
    def words(self) -> dict[str, Any]:
        """What the request says beside its messages."""
        return {name: value for name, value in self._request.items() if name != "messages"}

    def parameters(self) -> dict[str, Any]:
        """Parameters of `litellm.completion`, which may do with them as it likes."""
        target, dropped = self.target, self.dropped
        parameters: dict[str, Any] = {
            **revealed({name: value for name, value in target.parameters.items() if name not in dropped}),
            **{name: _copied(value) for name, value in self._request.items() if name not in dropped},
            "model": target.parameters["model"],
            "timeout": SOCKET_TIMEOUT_S,
            "num_retries": 0,
            "max_retries": 0,
        }
        if self.key is not None:
            parameters["api_key"] = self.key.get_secret_value()
        elif not target.borrows_key:
            # litellm would look for somebody else's key; this one is taken off again, or is none.
            parameters["api_key"] = "no-key"
        own = own_headers(parameters)
        if own:
            parameters |= {"headers": None, "extra_headers": own}
        return parameters

    def refused(self, error: Exception) -> Unsupported | None:
        """What follows from litellm's refusal of parameters: None to ask again, without those a reply can do without.

        litellm names them in stages: what it objects to next shows only when the first are gone.
        """
        named = self._named_in(str(error)) - set(self.dropped)
        if not named or not named <= SAMPLING:
            return Unsupported(tuple(sorted(named)))
        self.learnt.dropped = tuple(sorted({*self.dropped, *named}))
        return None

    def _named_in(self, text: str) -> set[str]:
        words = set(re.findall(r"\w+", text))
        return words & {*self._request, *self.target.parameters} - {"model", "messages", "stream"}


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
