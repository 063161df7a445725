"""Secrets kept out of what is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from llm_fallback.spec.secrets import (
    REDACTED,
    Address,
    Redactor,
    mask,
    safe_repr,
    secrets_in,
    secrets_of_address,
    unmask,
)


@pytest.fixture
def switching_at_once() -> Iterator[None]:
    """Threads that take turns after every few steps, so that one is caught in the middle of everything."""
    kept = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(kept)


def test_known_secrets_are_struck_out_of_a_text():
    """Every occurrence, and nothing else."""
    scrub = Redactor(["sk-one", "sk-two"])
    assert scrub("key sk-one, again sk-one, then sk-two.") == f"key {REDACTED}, again {REDACTED}, then {REDACTED}."
    assert scrub("nothing here") == "nothing here"


def test_a_secret_is_struck_as_it_looks_in_a_url_too():
    """Servers echo addresses, and addresses are quoted."""
    assert Redactor(["a+b/c=d"])("GET /v1?key=a%2Bb%2Fc%3Dd") == f"GET /v1?key={REDACTED}"


def test_of_secrets_within_each_other_nothing_is_left_standing():
    """The longer one goes first, whichever was learnt first."""
    for secrets in (["sk-abc", "sk-abc-def"], ["sk-abc-def", "sk-abc"]):
        assert Redactor(secrets)("sk-abc-def sk-abc") == f"{REDACTED} {REDACTED}"


@pytest.mark.parametrize("short", ["", "1", "on", "abc"])
def test_what_is_too_short_to_be_a_secret_does_not_strike_half_of_every_text(short):
    """A key of three letters protects nothing anyway."""
    assert Redactor([short])("1 on abc") == "1 on abc"


def test_secrets_can_be_learnt_later():
    """A key that a function brings is known from then on; learning it again changes nothing."""
    scrub = Redactor()
    assert scrub("token-123") == "token-123"
    scrub.add("token-123")
    scrub.add("token-123", "token-456")
    assert scrub("token-123 token-456") == f"{REDACTED} {REDACTED}"


def test_threads_that_learn_at_once_lose_no_secret(switching_at_once):
    """Each event loop learns the keys of its calls; one that got lost would be shown by a server that echoes it."""
    scrub = Redactor()
    keys = [[f"sk-{thread}-{number}" for number in range(200)] for thread in range(4)]

    def add(own: list[str]) -> None:
        for key in own:
            scrub.add(key)

    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(add, keys))
    assert not [key for own in keys for key in own if scrub(key) != REDACTED]


def test_keys_that_are_minted_for_each_call_do_not_fill_the_memory():
    """The latest are known, and those of the spec, however many came after them."""
    scrub = Redactor(["sk-of-the-spec"])
    scrub.add("sk-0", "sk-of-the-spec")
    for number in range(1, 3000):
        scrub.add(f"sk-{number}")
    assert [scrub(text) for text in ("sk-of-the-spec", "sk-2999", "sk-2000")] == [REDACTED] * 3
    assert repr(scrub) == "Redactor(1025 secrets)"


def test_a_key_that_is_learnt_again_is_one_of_the_latest():
    """Though it was learnt first: it is in use."""
    scrub = Redactor()
    keys = [f"sk-{number}" for number in range(1024)]
    for key in keys:
        scrub.add(key)
    scrub.add("sk-0", "sk-one-more")
    assert (scrub("sk-0"), scrub("sk-1")) == (REDACTED, "sk-1")


def test_secrets_of_a_former_spec_are_known_for_a_while():
    """Calls that are under way when another is loaded end with the old keys; new ones stay for good."""
    scrub = Redactor(["sk-former"])
    scrub.replace_all(["sk-present"])
    assert scrub("sk-former sk-present") == f"{REDACTED} {REDACTED}"
    for number in range(3000):
        scrub.add(f"sk-{number}")
    assert scrub("sk-former sk-present") == f"sk-former {REDACTED}"


def test_a_scrubber_tells_nobody_what_it_knows():
    """Neither its repr nor its str."""
    scrub = Redactor(["sk-very-secret"])
    assert "secret" not in f"{scrub!r} {scrub}".replace("secrets", "")


@given(st.lists(st.text(min_size=4, max_size=12), max_size=5), st.lists(st.text(max_size=12), max_size=6))
def test_no_secret_survives_in_any_text(secrets, between):
    """Wherever it stands and whatever stands around it, unless the strikes themselves spell it."""
    secrets = [secret for secret in secrets if not set(secret) <= set(REDACTED)]
    text = Redactor(secrets)("|".join([*between, *secrets, *between]))
    assert not [secret for secret in secrets if secret in text and "*" not in secret]


@pytest.mark.parametrize(
    ("secret", "told"),
    [
        ("Bearer canary-91ac", "no canary-91ac"),
        ("Basic dXNlcjpjYW5hcnktOTFhYw==", "no canary-91ac"),
        ("Basic dXNlcjpjYW5hcnk6OTFhYw==", "no canary:91ac"),
        (' {"private_key": "canary-91ac"}', "no canary-91ac"),
        ('{"type": "service_account", "private_key": "canary-91ac"}', "no canary-91ac"),
    ],
)
def test_a_secret_within_a_secret_is_one(secret, told):
    """Of a header what stands behind the scheme, of a login the password, of a document its keys."""
    assert Redactor([secret])(told) == f"no {REDACTED}"


@pytest.mark.parametrize(
    "secret",
    ["Basic not!base64", "Basic /////w==", "Basic dXNlcjpjY.W5hcnktOTFhYw==", "{no document", '{"a":' * 100_000],
)
def test_what_only_looks_like_a_login_or_a_document_is_a_secret_as_it_is(secret):
    """Nothing within it."""
    assert Redactor([secret])(f"a {secret} b canary-91ac") == f"a {REDACTED} b canary-91ac"


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("see http://user:pass@host/v1", f"see http://{REDACTED}@host/v1"),
        (
            "see https://host/v1?api-version=1&api-key=k1&x=1#y",
            f"see https://host/v1?api-version=1&api-key={REDACTED}&x=1#y",
        ),
        ("GET /v1?key=AIza and /v1?sig=abc", f"GET /v1?key={REDACTED} and /v1?sig={REDACTED}"),
        ("authorization: Bearer ya29.c0ffee", f"authorization: Bearer {REDACTED}"),
        ("x-amz-security-token:FwoGZ/x== x", f"x-amz-security-token:{REDACTED} x"),
        ("Basic authentication is required, a bearer token", "Basic authentication is required, a bearer token"),
        ("a@b is no address, nor is a?b=c", "a@b is no address, nor is a?b=c"),
    ],
)
def test_what_stands_where_a_secret_would_is_struck_whoever_knows_it(told, shown):
    """Addresses and headers that servers and libraries write out hold secrets nobody told us."""
    assert Redactor()(told) == shown


def test_an_address_shows_no_secret():
    """It is a text like any other, but for its repr."""
    address = Address("http://user:hunter22@host/v1?api-key=canary&v=1")
    assert repr(address) == "'http://***@host/v1?api-key=***&v=1'"
    assert (str(address), json.dumps(address)) == (f"{address}", f'"{address}"')


def test_nested_secrets_are_found_and_revealed_wherever_they_are():
    """In mappings, lists and tuples; what is none stays as it is."""
    nested = {"a": SecretStr("one"), "b": [{"c": (SecretStr("two"), 3)}], "d": None, "e": "plain"}
    assert list(secrets_in(nested)) == ["one", "two"]
    assert unmask(nested) == {"a": "one", "b": [{"c": ["two", 3]}], "d": None, "e": "plain"}
    assert nested["a"] == SecretStr("one")


def test_texts_and_numbers_under_the_name_of_a_secret_are_masked_and_texts_with_a_variable():
    """At every depth below the name; nothing else is."""
    spec = {"api_key": ["one", {"b": (2, 2.5)}, True, None], "b": ["plain", 7, "${KEY}"], "X-Token": 5}
    assert mask(spec) == {
        "api_key": [SecretStr("one"), {"b": [SecretStr("2"), SecretStr("2.5")]}, True, None],
        "b": ["plain", 7, SecretStr("${KEY}")],
        "X-Token": SecretStr("5"),
    }
    assert (mask("plain"), mask(7), mask("plain", secret=True)) == ("plain", 7, SecretStr("plain"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((None, "null"), (True, "true"), (False, "false"), ({"a": 1}, "a mapping"), ([1], "a list"), ((1,), "a list")),
        *((7, "7"), (2.5, "2.5"), ("fast", "'fast'"), (b"fast", "a bytes")),
        *(("x" * 60, repr("x" * 60)), ("x" * 61, None), ("sk-0123456789abcdef", None), ("Bearer x", None)),
    ],
)
def test_a_mistake_shows_a_value_unless_it_may_be_a_secret(value, shown):
    """What is long, or looks like a key, may be one."""
    assert safe_repr(value, ("deployments", 0, "model")) == shown


@pytest.mark.parametrize("path", [("deployments", 0, "api_key"), ("headers", "X-Auth-Token", 1), ("secret", "a")])
def test_a_mistake_shows_nothing_of_what_stands_under_the_name_of_a_secret(path):
    """Not even a word or a number."""
    assert safe_repr("fast", path) is None
    assert safe_repr(7, path) is None


def test_a_plain_value_holds_no_secret():
    """Numbers, texts and functions are what they are."""
    assert (list(secrets_in(7)), unmask(7), unmask(len)) == ([], 7, len)


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("https://host/v1", []),
        ("https://user@host/v1", []),
        ("https://user:pass@host/v1", ["pass"]),
        ("https://gh-0123456789ab@host/v1", ["gh-0123456789ab"]),
        ("https://user:pass@host/v1?next=http://there", ["pass"]),
        ("https://host/v1?next=http://user:pass@there", []),
        ("https://abcdefghijk@host/v1", []),
        ("https://abcdefghijkl@host/v1", ["abcdefghijkl"]),
        ("https://host/v1?api-version=1&api-key=k%2B1&sig=s", ["k%2B1", "k+1", "s"]),
        ("https://user:p%40ss@host/v1", ["p%40ss", "p@ss"]),
        ("", []),
        ("host:8000/v1", []),
    ],
)
def test_the_secrets_of_an_address_are_known_quoted_and_not(url, secrets):
    """As it stands in the address, and as it stands in a header."""
    assert list(secrets_of_address(url)) == secrets


@pytest.mark.parametrize("url", ["http://[::1", "http://user:hunter22@[bad/v1"])
def test_an_address_that_cannot_be_read_is_no_reason_to_fail(url):
    """Whoever checks addresses says what is wrong with it; a password in it is a secret all the same."""
    assert all("hunter22" in password for password in secrets_of_address(url))
