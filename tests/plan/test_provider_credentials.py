"""What a hosted deployment without an api_key goes by, as litellm and the clouds' libraries look for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_fallback.plan.provider_credentials import lacks_cloud_credentials, missing_key
from llm_fallback.spec.providers import KEY_VARIABLES, LOCAL, PROVIDERS


def test_the_table_is_of_hosted_chat_providers():
    """One who is self-hosted needs no key."""
    assert KEY_VARIABLES.keys() <= PROVIDERS - LOCAL


@pytest.mark.parametrize("provider", KEY_VARIABLES)
def test_any_of_a_provider_s_variables_will_do(provider):
    """And an empty one is none."""
    variables = KEY_VARIABLES[provider]
    assert missing_key(provider, {}, {}) == missing_key(provider, {}, {variables[0]: ""}) == " or ".join(variables)
    assert [missing_key(provider, {}, {name: "k"}) for name in variables] == [None] * len(variables)


@pytest.mark.parametrize(
    ("parameters", "environ"),
    [
        ({}, {"AZURE_API_KEY": "k"}),
        ({}, {"AZURE_OPENAI_API_KEY": "k"}),
        ({}, {"AZURE_AD_TOKEN": "t"}),
        ({}, {"AZURE_CLIENT_ID": "i", "AZURE_TENANT_ID": "t", "AZURE_CLIENT_SECRET": "s"}),
        ({"azure_ad_token": "t"}, {}),
        ({"azure_ad_token_provider": print}, {}),
        ({"client_id": "i", "tenant_id": "t", "client_secret": "s"}, {}),
    ],
)
def test_azure_takes_a_key_a_token_or_an_identity(parameters, environ):
    """Whichever there is."""
    assert missing_key("azure", {}, {}) == "AZURE_API_KEY or AZURE_OPENAI_API_KEY"
    assert missing_key("azure", parameters, environ) is None


def test_anthropic_takes_a_federated_identity_too():
    """Then there is no key to miss."""
    assert missing_key("anthropic", {}, {"ANTHROPIC_FEDERATION_RULE_ID": "r"}) is None


def test_of_a_provider_nobody_knows_nothing_is_missed():
    """litellm has more of them than we know, and may know one that needs no key."""
    assert missing_key("acme", {}, {}) is missing_key("ollama", {}, {}) is None


@pytest.mark.parametrize(
    ("provider", "parameters", "environ"),
    [
        ("bedrock", {"aws_access_key_id": "A"}, {}),
        ("bedrock", {"aws_profile_name": "p"}, {}),
        ("bedrock", {"aws_role_name": "arn:aws:iam::1:role/r"}, {}),
        ("bedrock", {}, {"AWS_ACCESS_KEY_ID": "A"}),
        ("bedrock", {}, {"AWS_BEARER_TOKEN_BEDROCK": "t"}),
        ("bedrock", {}, {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token"}),
        ("bedrock", {}, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}),
        ("vertex_ai", {"vertex_credentials": "{}"}, {}),
        ("vertex_ai", {}, {"GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json"}),
        ("vertex_ai", {}, {"K_SERVICE": "on-cloud-run"}),
    ],
)
def test_a_cloud_s_credentials_are_parameters_variables_or_an_identity(provider, parameters, environ):
    """Each by itself is enough."""
    assert lacks_cloud_credentials(provider, {}, {})
    assert not lacks_cloud_credentials(provider, parameters, environ)


@pytest.mark.parametrize(
    ("provider", "file", "variable"),
    [
        ("bedrock", ".aws/credentials", None),
        ("sagemaker", ".aws/config", None),
        ("bedrock", "elsewhere", "AWS_SHARED_CREDENTIALS_FILE"),
        ("vertex_ai", ".config/gcloud/application_default_credentials.json", None),
    ],
)
def test_or_a_file_where_its_library_looks(provider, file, variable, tmp_path):
    """In the home of whoever runs it, or where a variable says."""
    environ = {"HOME": str(tmp_path)} | ({variable: str(tmp_path / file)} if variable else {})
    assert lacks_cloud_credentials(provider, {}, environ)
    path = Path(tmp_path / file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    assert not lacks_cloud_credentials(provider, {}, environ)


def test_gcloud_s_folder_may_be_another(tmp_path):
    """CLOUDSDK_CONFIG names it."""
    environ = {"HOME": "/nowhere", "CLOUDSDK_CONFIG": str(tmp_path)}
    assert lacks_cloud_credentials("vertex_ai", {}, environ)
    (tmp_path / "application_default_credentials.json").write_text("{}")
    assert not lacks_cloud_credentials("vertex_ai", {}, environ)


def test_other_providers_are_no_clouds():
    """Their keys are looked for elsewhere."""
    assert not lacks_cloud_credentials("openai", {}, {})
