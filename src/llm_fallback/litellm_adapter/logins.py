"""Logins that are good for one request or for a while: signatures for Amazon, tokens for Google and for Azure.

A template holds none of them. They are put on a request when it goes out, made of what litellm and the clouds' own
libraries find: keys, roles, files, the identity of the machine. Those libraries may have to ask somebody, and do so in
threads; they are optional, and loaded by litellm when it first needs them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar
from weakref import WeakKeyDictionary

import litellm
from pydantic import SecretStr

from llm_fallback.litellm_adapter.errors import NoToken
from llm_fallback.litellm_adapter.http_client import HTTPRequest
from llm_fallback.plan.plan import Target
from llm_fallback.spec.secrets import unmask


class TokenProvider:
    """A function of the user's that hands out tokens, async or not, as litellm calls it: whatever it raises is known
    for what it is, which litellm's own exceptions do not tell. One for all requests of a deployment, because litellm
    keeps a client for each function it is given."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def __call__(self) -> str | Awaitable[str]:
        """A token, or of an async function what is to be awaited for it. Raises NoToken, as awaiting it does."""
        with _no_other_error():
            given = self._function()
            return self._awaited(given) if inspect.isawaitable(given) else _checked(given)

    async def _awaited(self, given: Awaitable[Any]) -> str:
        with _no_other_error():
            return _checked(await given)


@contextmanager
def _no_other_error() -> Iterator[None]:
    try:
        yield
    except NoToken:
        raise
    except Exception as error:
        raise NoToken(str(error) or type(error).__name__) from error


def _checked(token: Any) -> str:
    if isinstance(token, str) and token:
        return token
    raise NoToken("azure_ad_token_provider gave no token")


def token_provider_of(target: Target) -> TokenProvider | None:
    """What stands in for the function that a deployment names, if it does."""
    function = target.parameters.get("azure_ad_token_provider")
    return TokenProvider(function) if callable(function) else None


def tokens_in(headers: Mapping[str, str]) -> Iterator[str]:
    """The tokens among a request's logins: whoever has one is let in until it ends."""
    for name, text in headers.items():
        scheme, _, token = text.partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "bearer":
            yield token
        elif name.lower() == "x-amz-security-token":
            yield text


Request = TypeVar("Request", bound=HTTPRequest)


class Login(Protocol):
    """How one deployment logs in. Made of the deployment and of the authorization of a request that it sent."""

    scheme: ClassVar[str]
    """How the authorizations of such a login begin."""

    def strip(self, request: Request) -> Request:
        """The request without its login."""
        ...

    async def put_on(self, request: Request) -> Request:
        """The request with a login that is good now. Raises what the cloud's library raises."""
        ...


_OF_A_SIGNATURE = frozenset({"authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"})
_CREDENTIALS = (
    *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_region_name", "aws_session_name"),
    *("aws_profile_name", "aws_role_name", "aws_web_identity_token", "aws_sts_endpoint", "aws_external_id"),
)
"""litellm's parameters that say who signs."""
_KEYS = {"aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_region_name"}


class AmazonSignature:
    """Signature Version 4, over the whole request, as litellm makes it: only these headers are signed."""

    scheme: ClassVar[str] = "AWS4-HMAC-SHA256 "

    def __init__(self, target: Target, authorization: str) -> None:
        """`authorization` is that of a signed request, which names its region and service."""
        _, _, self._region, self._service, _ = authorization.partition("Credential=")[2].partition(",")[0].split("/")
        self._given = {name: target.parameters[name] for name in _CREDENTIALS if name in target.parameters}
        self._credentials: Any = None
        """Keys that were given as such, and do not end."""

    def strip(self, request: Request) -> Request:
        return _without(request, _OF_A_SIGNATURE)

    async def put_on(self, request: Request) -> Request:
        credentials = self._credentials
        if credentials is None:
            credentials = await asyncio.get_running_loop().run_in_executor(None, self._found)
            if "aws_access_key_id" in self._given and self._given.keys() <= _KEYS:
                self._credentials = credentials
        return self._signed(request, credentials)

    def _found(self) -> Any:
        from litellm.llms.bedrock.base_aws_llm import BaseAWSLLM

        return BaseAWSLLM().get_credentials(**unmask({"aws_region_name": self._region, **self._given}))

    def _signed(self, request: Request, credentials: Any) -> Request:
        # It loads botocore, which is there where Amazon is asked.
        from llm_fallback.litellm_adapter.amazon_signer import AmazonSigner, AWSRequest

        kind = {name: text for name, text in request.headers.items() if name.lower() == "content-type"}
        signed = AWSRequest(method="POST", url=request.url, data=request.body, headers=kind)
        AmazonSigner(credentials, self._service, self._region).add_auth(signed)
        return replace(request, headers={**request.headers, **dict(signed.headers.items())})


class GoogleToken:
    """A token of Google's cloud. litellm keeps it, and renews it once for all who wait."""

    scheme: ClassVar[str] = "Bearer "

    def __init__(self, target: Target, authorization: str) -> None:
        own = target.parameters
        self._credentials = own.get("vertex_credentials") or own.get("vertex_ai_credentials")
        self._project = own.get("vertex_project") or own.get("vertex_ai_project")

    def strip(self, request: Request) -> Request:
        return _without(request, _OF_GOOGLE)

    async def put_on(self, request: Request) -> Request:
        token, _ = await litellm.main.vertex_chat_completion._ensure_access_token_async(
            credentials=unmask({"it": self._credentials})["it"],
            project_id=self._project,
            custom_llm_provider="vertex_ai",
        )
        return replace(request, headers={**request.headers, "Authorization": f"Bearer {token}"})


_OF_GOOGLE = frozenset({"authorization", "x-api-key"})
"""The second is a copy that litellm makes for Claude; Google looks at the first."""


class AzureToken:
    """A token of Microsoft Entra, by what litellm finds: a function of the user's, a service principal, an identity.
    Azure's library, or the function, keeps a token until it ends."""

    scheme: ClassVar[str] = "Bearer "

    def __init__(self, target: Target, authorization: str) -> None:
        self._given = {name: target.parameters[name] for name in _OF_ENTRA if name in target.parameters}
        self._provider = token_provider_of(target)
        self._asking: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[SecretStr]] = WeakKeyDictionary()

    def strip(self, request: Request) -> Request:
        return _without(request, frozenset({"authorization"}))

    async def put_on(self, request: Request) -> Request:
        token = await self._token()
        return replace(request, headers={**request.headers, "Authorization": f"Bearer {token.get_secret_value()}"})

    async def _token(self) -> SecretStr:
        """A token that is good now. Whoever needs one while it is asked for waits for the same. Masked, because a task
        shows its result where tasks are listed."""
        loop = asyncio.get_running_loop()
        asking = self._asking.get(loop)
        if asking is None or asking.done():
            asking = self._asking[loop] = loop.create_task(self._new_token())
            # Nobody may be left who hears how it failed.
            asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(asking)

    async def _new_token(self) -> SecretStr:
        # In a thread, as a function may wait for the network; what an async one gives is awaited here, as clients that
        # it keeps belong to a loop.
        token = await asyncio.to_thread(self._found if self._provider is None else self._provider)
        return SecretStr(token if isinstance(token, str) else await token)

    def _found(self) -> str:
        from litellm.llms.azure.common_utils import get_azure_ad_token

        given: Any = unmask(self._given)
        token: str | None = get_azure_ad_token(given)
        if not token:
            raise PermissionError("Azure gave no token")
        return token


_OF_ENTRA = (
    *("azure_ad_token", "tenant_id", "client_id", "client_secret", "azure_username", "azure_password", "azure_scope"),
)
"""litellm's parameters that say who asks for a token, where no function does."""


def _without(request: Request, names: frozenset[str]) -> Request:
    kept: Mapping[str, str] = {name: text for name, text in request.headers.items() if name.lower() not in names}
    return replace(request, headers=kept)
