"""What is known of litellm's providers, one row each.

A provider has a row if anything of it is other than with most: those speak OpenAI's protocol, are asked by litellm's
own httpx client, log in with a key that stays as it is, and are passed the links of pictures. Everybody without a row
is asked like most. What a plan needs, which is made without litellm, is in `spec.providers`: `DIRECT`, whether litellm
only writes a provider's requests, and `SIGNED_BY`. A row agrees with it: another protocol than OpenAI's, a client of
ours and a login that is made here are for those in `DIRECT`, and whoever is not seen to send is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llm_fallback.litellm_adapter.links import (
    Link,
    is_unfit_for_anthropic,
    is_unfit_for_claude_elsewhere,
    is_unfit_for_gemini,
    is_unfit_for_most,
    is_unfit_for_who_takes_data,
)
from llm_fallback.litellm_adapter.logins import AmazonSignature, AzureToken, GoogleToken
from llm_fallback.litellm_adapter.protocols import (
    ANTHROPIC_MESSAGES,
    BEDROCK_CONVERSE,
    COHERE_CHAT,
    GEMINI,
    OLLAMA_CHAT,
    OPENAI_CHAT,
    Protocol,
)

Client: TypeAlias = Literal["litellm", "handler", "openai", "unseen"]
"""Who sends where litellm sends a provider's requests: an httpx client of its own; an AsyncHTTPHandler, which may be
ours; OpenAI's library, which may use our HTTP client at an address of one's own; another library, or nobody."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What is known of a provider; by default, what holds of most."""

    protocol: Protocol = OPENAI_CHAT
    """That of most of its models, as long as no address tells which."""
    client: Client = "litellm"
    models: str = ""
    """How the names of the models begin that are asked by `client`; the others by litellm's own."""
    login: type[AmazonSignature | AzureToken | GoogleToken] | None = None
    """How it logs in, anew for each request or when a login ends."""
    takes_a_key: bool = True
    """Whether it may be asked with a key at all."""
    login_host: tuple[str, str] = ("", "")
    """Where litellm itself asks for its login: a variable that names the address, and the usual one. The clouds' own
    libraries ask by other means than are watched here."""
    is_unfit: Callable[[Link], bool] = is_unfit_for_most
    """Which links litellm would follow for it, instead of passing them on."""
    rewritten_media: frozenset[str] = frozenset()
    """Kinds of parts of a message that litellm sends it in another format."""
    thinking: Literal["own", "anthropic", "claude", "passed_on"] = "own"
    """Whose rules hold for thoughts: Anthropic's for all models or for Claude, or those of whoever is behind it, who is
    given the parameters as they are."""


_BY_HANDLER = Provider(client="handler")
"""litellm skips frames of theirs that do not parse, and sends a request twice when the connection breaks, unless
somebody watches the wire."""

_ENTRA = ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com")
_IBM = ("WATSONX_IAM_URL", "https://iam.cloud.ibm.com")

PROVIDERS: Mapping[str, Provider] = {
    "aiohttp_openai": Provider(client="unseen"),
    "anthropic": Provider(ANTHROPIC_MESSAGES, client="handler", is_unfit=is_unfit_for_anthropic, thinking="anthropic"),
    "anthropic_text": Provider(is_unfit=is_unfit_for_who_takes_data),
    "azure": Provider(login=AzureToken, login_host=_ENTRA),
    "azure_ai": Provider(is_unfit=is_unfit_for_claude_elsewhere, thinking="claude"),
    "azure_text": Provider(login_host=_ENTRA),
    "bedrock": Provider(
        BEDROCK_CONVERSE, login=AmazonSignature, is_unfit=is_unfit_for_who_takes_data, thinking="claude"
    ),
    "cohere": Provider(COHERE_CHAT),
    "cohere_chat": Provider(COHERE_CHAT),
    "custom": Provider(client="unseen"),
    "deepseek": _BY_HANDLER,
    "fireworks_ai": _BY_HANDLER,
    "gemini": Provider(GEMINI, client="handler", is_unfit=is_unfit_for_gemini),
    "gigachat": Provider(login_host=("GIGACHAT_AUTH_URL", "https://ngw.devices.sberbank.ru:9443")),
    "groq": _BY_HANDLER,
    "hosted_vllm": _BY_HANDLER,
    "litellm_proxy": Provider(client="openai", thinking="passed_on"),
    "mistral": _BY_HANDLER,
    "ollama": Provider(is_unfit=is_unfit_for_who_takes_data, rewritten_media=frozenset({"image_url"})),
    "ollama_chat": Provider(OLLAMA_CHAT),
    "openai": Provider(client="openai"),
    "openrouter": _BY_HANDLER,
    "petals": Provider(client="unseen"),
    "sap": Provider(login_host=("AICORE_AUTH_URL", "")),
    "snowflake": Provider(is_unfit=is_unfit_for_who_takes_data),
    "together_ai": _BY_HANDLER,
    "vertex_ai": Provider(
        GEMINI,
        client="handler",
        models="gemini",
        login=GoogleToken,
        takes_a_key=False,
        is_unfit=is_unfit_for_gemini,
        thinking="claude",
    ),
    "vertex_ai_beta": Provider(is_unfit=is_unfit_for_gemini),
    "vllm": Provider(client="unseen"),
    "watsonx": Provider(login_host=_IBM),
    "watsonx_text": Provider(login_host=_IBM),
    "xai": Provider(client="handler", login_host=("XAI_OAUTH_ISSUER", "https://auth.x.ai")),
}
"""By litellm's name for the provider."""

MOST = Provider()


def provider_called(name: str) -> Provider:
    """What is known of the provider that litellm calls so."""
    return PROVIDERS.get(name, MOST)
