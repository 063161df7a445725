"""What a hosted provider's deployment without an `api_key` goes by: a variable, a parameter, a file, an identity.

Read as litellm and the clouds' own libraries read it, without any of them and without a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_fallback.spec.providers import KEY_VARIABLES


@dataclass(frozen=True, slots=True)
class _Identity:
    """Who a deployment may be to its provider, where that is not said by a key."""

    parameters: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    """Any of these is enough."""
    secrets: tuple[str, ...] = ()
    """Variables whose values are secrets, beside a provider's key."""


AZURE_KEYS = ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY")
_AZURE = _Identity(
    ("azure_ad_token", "azure_ad_token_provider", "client_secret", "azure_password"),
    ("AZURE_AD_TOKEN", "AZURE_OPENAI_AD_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_PASSWORD"),
    ("AZURE_AD_TOKEN", "AZURE_OPENAI_AD_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_PASSWORD"),
)
_AMAZON = _Identity(
    ("aws_access_key_id", "aws_profile_name", "aws_role_name", "aws_web_identity_token"),
    (
        *("AWS_ACCESS_KEY_ID", "AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ROLE_ARN"),
        *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"),
)
_GOOGLE = _Identity(
    ("vertex_credentials", "vertex_ai_credentials"),
    (
        *("GOOGLE_APPLICATION_CREDENTIALS", "VERTEXAI_CREDENTIALS", "GCE_METADATA_HOST", "GCE_METADATA_ROOT"),
        # What Google's own machines set: they have an identity.
        *("GCE_METADATA_IP", "K_SERVICE", "CLOUD_RUN_JOB", "GAE_ENV", "KUBERNETES_SERVICE_HOST"),
    ),
)
_NOBODY = _Identity()
_IDENTITIES: Mapping[str, _Identity] = {
    "anthropic": _Identity(("anthropic_federation_rule_id",), ("ANTHROPIC_FEDERATION_RULE_ID",)),
    "azure": _AZURE,
    "azure_text": _AZURE,
    **dict.fromkeys(("bedrock", "sagemaker", "sagemaker_chat"), _AMAZON),
    **dict.fromkeys(("vertex_ai", "vertex_ai_beta"), _GOOGLE),
}


def secrets_in_variables(provider: str, environ: Mapping[str, str]) -> Iterator[str]:
    """The keys that a provider's deployment without one may be asked with: those that variables hold."""
    names = (*key_variables(provider), *_IDENTITIES.get(provider, _NOBODY).secrets)
    return (environ[name] for name in names if environ.get(name))


def missing_key(provider: str, parameters: Mapping[str, Any], environ: Mapping[str, str]) -> str | None:
    """The variables of which one has to hold a key, as a text; None where one does, or there is another way in."""
    variables = key_variables(provider)
    if not variables or any(environ.get(name) for name in variables) or _has_identity(provider, parameters, environ):
        return None
    return " or ".join(variables)


def key_variables(provider: str) -> tuple[str, ...]:
    """The variables in which litellm looks for a provider's key; none where it logs in otherwise."""
    return AZURE_KEYS if _IDENTITIES.get(provider) is _AZURE else KEY_VARIABLES.get(provider, ())


def lacks_cloud_credentials(provider: str, parameters: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Whether neither parameters nor variables nor files have credentials for Amazon's or Google's cloud. The identity
    of the machine, which only a request would tell, may be there all the same."""
    if _IDENTITIES.get(provider) not in (_AMAZON, _GOOGLE) or _has_identity(provider, parameters, environ):
        return False
    files = _amazon_files(environ) if _IDENTITIES[provider] is _AMAZON else _google_files(environ)
    return not any(file.is_file() for file in files)


def cloud_login_hint(provider: str) -> str | None:
    """How to log in to Amazon's or Google's cloud; None for other providers."""
    identity = _IDENTITIES.get(provider)
    if identity is _AMAZON:
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, write params.aws_profile_name, "
            "or run it where the machine has a role"
        )
    if identity is _GOOGLE:
        return (
            "set GOOGLE_APPLICATION_CREDENTIALS, log in by `gcloud auth application-default login`, "
            "write params.vertex_credentials, or run it where the machine has a service account"
        )
    return None


def names_identity(provider: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a deployment's own parameters say who it is to its provider, beside a key."""
    return any(parameters.get(name) for name in _IDENTITIES.get(provider, _NOBODY).parameters)


def _has_identity(provider: str, parameters: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    variables = _IDENTITIES.get(provider, _NOBODY).variables
    return names_identity(provider, parameters) or any(map(environ.get, variables))


def signs(provider: str, parameters: Mapping[str, Any]) -> bool:
    """Whether parameters name credentials of Amazon's to sign requests with: the deployment's own, at any address."""
    return _IDENTITIES.get(provider) is _AMAZON and names_identity(provider, parameters)


def _amazon_files(environ: Mapping[str, str]) -> list[Path]:
    named = (environ.get("AWS_SHARED_CREDENTIALS_FILE"), environ.get("AWS_CONFIG_FILE"))
    home = _home(environ)
    return [Path(name) for name in named if name] + ([home / ".aws/credentials", home / ".aws/config"] if home else [])


def _google_files(environ: Mapping[str, str]) -> list[Path]:
    name, home = "application_default_credentials.json", _home(environ)
    if "CLOUDSDK_CONFIG" in environ:
        return [Path(environ["CLOUDSDK_CONFIG"]) / name]
    roots = [Path(environ["APPDATA"])] if "APPDATA" in environ else []
    return [root / "gcloud" / name for root in (*roots, *([home / ".config"] if home else []))]


def _home(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("HOME") or environ.get("USERPROFILE")
    return Path(home) if home else None
