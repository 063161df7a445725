"""What is known of litellm's providers agrees with itself, with what a plan is made by, and with litellm."""

from __future__ import annotations

import pytest

from llm_fallback.litellm_adapter.protocols import OPENAI_CHAT
from llm_fallback.litellm_adapter.providers import MOST, PROVIDERS, provider_called
from llm_fallback.spec import providers as spec

NAMES = sorted(PROVIDERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_of_a_provider_that_is_other_than_most(name):
    """One that says nothing, or of somebody litellm does not know, is a row too many."""
    assert name in spec.KNOWN_PROVIDERS
    assert PROVIDERS[name] != MOST


def test_rows_and_spec_agree_on_the_protocol_of_each_provider():
    """A plan says who is asked directly; those of them who speak another protocol than OpenAI's have a reader here."""
    others = {name for name in NAMES if PROVIDERS[name].protocol is not OPENAI_CHAT}
    assert others == spec.DIRECT - spec.OPENAI_CHAT


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_spec_agree_on_who_is_asked_directly(name):
    """A client of ours and a login made here are of no use to others, and who is not seen to send cannot be stopped."""
    row = provider_called(name)
    if row.client in ("handler", "openai") or row.login is not None:
        assert name in spec.DIRECT
    if row.client == "unseen":
        assert name not in spec.DIRECT


@pytest.mark.parametrize("name", sorted(spec.DIRECT))
def test_who_is_asked_directly_is_known_to_litellm(name):
    """A name misspelt in one of the tables would be nobody's."""
    import litellm

    assert name in {str(getattr(provider, "value", provider)) for provider in litellm.provider_list}
    assert name in spec.PROVIDERS


@pytest.mark.parametrize("name", sorted(spec.SIGNED_BY))
def test_where_anthropic_signs_its_rules_hold(name):
    """A signature that holds in several places is one that somebody may ask for."""
    assert PROVIDERS[spec.SIGNED_BY[name]].thinking == "anthropic"
    assert PROVIDERS[name].thinking == "claude"


@pytest.mark.parametrize("name", [name for name in NAMES if not PROVIDERS[name].takes_a_key])
def test_who_takes_no_key_has_a_login(name):
    """Else nobody would let it in."""
    assert PROVIDERS[name].login is not None


def test_a_provider_without_a_row_is_asked_like_most():
    """litellm gains providers faster than any table."""
    assert provider_called("somebody") is MOST
