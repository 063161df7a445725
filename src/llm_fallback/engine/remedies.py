"""What to do about a deployment that does not answer, by the word for its failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

from llm_fallback.engine.transport import Fault
from llm_fallback.events import Failure
from llm_fallback.plan.plan import Target
from llm_fallback.plan.provider_credentials import cloud_login_hint
from llm_fallback.spec.providers import KEY_VARIABLES

_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class FailureContext:
    """One failure, and what is known around it."""

    target: Target
    fault: Fault
    serves: Sequence[str]
    key: SecretStr | None
    reachable: bool | None

    @property
    def address(self) -> str:
        """The server, without a password that its address may carry."""
        parts = urlsplit(str(self.target.parameters.get("api_base", "")))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else ""


def remedy(failure: FailureContext) -> str | None:
    """What to do, in one line; None where the server's own words say it best."""
    say = _REMEDIES.get(failure.fault.failure)
    return None if say is None else say(failure)


def _connection(failure: FailureContext) -> str:
    if failure.reachable:
        return "the server breaks the connection instead of answering: its log says more"
    if not failure.address:
        return "there is no connection to the provider: is there a network?"
    return f"nothing answers at {failure.address}: is the server up, and is api_base right?"


def _timeout(failure: FailureContext) -> str:
    if failure.reachable:
        return "the server is up and does not answer: it is loading the model, or overloaded"
    return f"no word from {failure.address or 'the provider'}: is it up, and does a firewall stand in between?"


def _auth(failure: FailureContext) -> str:
    if callable(failure.target.api_key) and failure.fault.status is None:
        return "the function in api_key has to return a key"
    if failure.key is not None:
        return (
            "the server refuses the key in api_key" if failure.fault.status != 403 else "the key may not use this model"
        )
    hint = cloud_login_hint(failure.target.provider)
    if hint is not None and failure.target.uses_provider_credentials:
        return f"no credentials were found, or they are refused: {hint}"
    variables = KEY_VARIABLES.get(failure.target.provider, ()) if failure.target.uses_provider_credentials else ()
    if variables and failure.fault.status is None:
        return f"set {' or '.join(variables)}, or write the key as api_key"
    if variables:
        return f"the provider refuses the key in {variables[0]}, or it is not set"
    return "the server asks for a key: write it as api_key"


def _not_found(failure: FailureContext) -> str:
    name = failure.target.model_name
    if name in failure.serves:
        return f"the server lists model {name!r} and does not answer for it: is api_base right?"
    if failure.serves:
        others = ", ".join(failure.serves[:_MOST_NAMED])
        return f"model {name!r} is not served here; it serves: {others}"
    return f"model {name!r} is not served here, or api_base is not right"


def _rate_limited(failure: FailureContext) -> str:
    wait = failure.fault.retry_after_s
    return "it is throttled" if wait is None else f"it is throttled, and asks for {wait:g} s of patience"


def _bad_request(failure: FailureContext) -> str:
    if failure.fault.was_refused_here:
        return "the request cannot be written for this deployment: are its model and params right?"
    return "the server does not take the request: are model and params right?"


def _not_a_completion(failure: FailureContext) -> str:
    where = f"{failure.address}/chat/completions" if failure.address else "the provider"
    return f"what {where} answers is no chat completion: is api_base right?"


_REMEDIES: Mapping[Failure, Callable[[FailureContext], str]] = {
    "connection": _connection,
    "timeout": _timeout,
    "auth": _auth,
    "not_found": _not_found,
    "rate_limited": _rate_limited,
    "quota_exhausted": lambda failure: "the account has no credit left, or no billing",
    "overloaded": lambda failure: "the server is up and takes no requests: it is still starting, or full",
    "server_error": lambda failure: "the server fails by itself: its log says more",
    "bad_request": _bad_request,
    "invalid_response": _not_a_completion,
    "empty_response": _not_a_completion,
    "stream_broken": _not_a_completion,
}
