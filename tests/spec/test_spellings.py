"""However a server spells a secret, it is found; and the rest of a text stays as it was."""

from __future__ import annotations

import html
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_fallback.spec.spellings import places, spellings, struck
from tests.thinning import examples

SECRET = "sk-live/0123+4567=89abcdef~ü"

SPELT: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON": json.dumps,
    "in JSON, every character escaped": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "in JSON in capitals": lambda text: "".join(f"\\u{ord(char):04X}" for char in text),
    "in JSON with slashes escaped": lambda text: json.dumps(text).replace("/", "\\/"),
    "in JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "in JSON in JSON in JSON": lambda text: json.dumps(json.dumps(json.dumps(text))),
    "in a URL": lambda text: quote(text, safe="", encoding="latin-1"),
    "in a URL as UTF-8": lambda text: quote(text, safe=""),
    "in a URL, every character quoted": lambda text: "".join(f"%{ord(char):02x}" for char in text),
    "in a URL in a URL": lambda text: quote(quote(text, safe="", encoding="latin-1"), safe=""),
    "in HTML": lambda text: html.escape("".join(f"&#{ord(char)};" for char in text)).replace("&amp;", "&"),
    "in HTML, hexadecimal": lambda text: "".join(f"&#x{ord(char):x};" for char in text),
    "in Python's repr": lambda text: "".join(f"\\x{ord(char):02x}" for char in text),
    "in base64": lambda text: b64encode(text.encode()).decode(),
    "in base64 for URLs": lambda text: urlsafe_b64encode(text.encode()).decode(),
    "as the login of a user": lambda text: b64encode(f"user:{text}".encode()).decode(),
    "as the login of another user": lambda text: b64encode(f"users:{text}".encode()).decode(),
    "as the login of a third user": lambda text: b64encode(f"user10:{text}".encode()).decode(),
}


def strike(text: str, *secrets: str) -> str:
    wanted = frozenset[str]().union(*map(spellings, secrets))
    return struck(text, places(text, tuple(wanted)), "***")


@pytest.mark.parametrize("spell", SPELT.values(), ids=SPELT)
@pytest.mark.parametrize("around", ["", "\\", "%", "&#", "é\\n", "12"])
def test_a_secret_is_found_however_it_is_spelt(spell, around):
    """With escapes to its left and right, too; six bits of base64 may stand for its end and for what follows."""
    spelt = spell(SECRET)
    text = strike(f"before {around} {spelt} {around} after", SECRET)
    assert text.startswith(f"before {around} ")
    assert text.endswith(f" {around} after")
    assert "***" in text
    assert not [part for part in (spelt[at : at + 12] for at in range(8, len(spelt) - 20, 4)) if part in text]


@given(st.text("aé%\\u0&#x;/\"'n1-", max_size=60))
@settings(max_examples=examples(300))
@example("\\\\u0061")
def test_a_text_without_the_secret_stays_as_it_is(text):
    """Escapes are undone to look, and not for whoever reads the text."""
    assert strike(text, "sk-secret") == text


@given(st.text("aé%\\u0/\"'-", min_size=4, max_size=12), st.text("aé%\\u0061&#;/", max_size=12))
@settings(max_examples=examples(300))
def test_no_secret_survives_in_json(secret, around):
    """Whatever it is made of, as a JSON document has it, and as the text in it has it."""
    document = json.dumps({"message": f"{around} {secret} {around}"})
    for text in (document, json.loads(document)["message"]):
        assert "***" in strike(text, secret)


def test_overlapping_secrets_are_struck_as_one():
    """Of neither a part is left."""
    assert strike("abcdefgh", "abcdef", "cdefgh") == "***"
    assert strike("abababa", "abab") == "***a"


@pytest.mark.parametrize("short", ["", "on", "abc"])
def test_what_is_too_short_to_be_a_secret_has_no_spelling(short):
    """It would strike half of every text."""
    assert not spellings(short)
