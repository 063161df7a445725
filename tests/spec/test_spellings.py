"""However a server spells a secret, it is found; and the rest of a text stays as it was."""

from __future__ import annotations

import html
import json
from base64 import b32encode, b64encode, urlsafe_b64encode
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
    "in base64, in lines": lambda text: "\n".join(batched(b64encode(f"user:{text}".encode()).decode(), 7)),
    "in base32": lambda text: b32encode(text.encode()).decode(),
    "in base32 behind another text": lambda text: b32encode(f"it is {text}".encode()).decode().lower(),
    "in hexadecimal digits": lambda text: text.encode().hex(),
    "in capital digits": lambda text: text.encode().hex().upper(),
    "in pairs of digits": lambda text: text.encode().hex(" "),
    "in pairs of digits with colons": lambda text: text.encode().hex(":"),
    "in bytes of C": lambda text: ", ".join(f"0x{byte:02x}" for byte in text.encode()),
    "in bytes of C with spaces": lambda text: " ".join(f"0x{byte:02x}" for byte in text.encode()),
    "in bytes of C in lines": lambda text: ",\n".join(f"0x{byte:02x}" for byte in text.encode()),
    "in bytes of C in capitals": lambda text: ",".join(f"0X{byte:02X}" for byte in text.encode()),
    "with a line end in it": lambda text: text[:9] + "\r\n" + text[9:],
    "with spaces": " ".join,
    "with tabs, in JSON": lambda text: json.dumps("\u00a0".join(text)),
    "with what has no width": "\u200b".join,
    "with soft hyphens": "\xad".join,
    "with colours of a terminal": "\x1b[1;31m".join,
    "as the login of a user": lambda text: b64encode(f"user:{text}".encode()).decode(),
    "as the login of another user": lambda text: b64encode(f"users:{text}".encode()).decode(),
    "as the login of a third user": lambda text: b64encode(f"user10:{text}".encode()).decode(),
}


def batched(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def strike(text: str, *secrets: str) -> str:
    return struck(text, places(text, spellings(secrets)), "***")


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


@pytest.mark.parametrize(
    ("text", "secret", "shown"),
    [
        (" ".join(SECRET), SECRET, "***"),
        ("\u200b".join(SECRET), SECRET, "***"),
        (f"a {SPELT['in JSON, every character escaped'](SECRET)} b", SECRET, "a *** b"),
        (f"a {SPELT['in HTML'](SECRET)} b", SECRET, "a *** b"),
        ("a key-1234 b key-1234 c key-1234 d", "key-1234", "a *** b *** c *** d"),
        ("aaaaa", "aaaa", "***"),
        ("the passphrase12 of", "pass phrase 12", "the *** of"),
        ("the pass\nphrase 12 of", "pass phrase 12", "the *** of"),
        ("YWJjZGVm", "abcdef", "***"),
        ("61 62 63 64 65 66 67 68", "abcdefgh", "***"),
        (urlsafe_b64encode(b"sk-???>>>~~~").decode(), "sk-???>>>~~~", "***"),
        (json.dumps("%41\\bcdefgh"), "%41\\bcdefgh", '"***"'),
        ("half\ud83d-key", "half\ud83d-key", "***"),
    ],
)
def test_nothing_is_left_of_a_secret(text, secret, shown):
    """Not its last escape, nor one that seems to stand in it; at either end of a text and in it more than once."""
    assert strike(text, secret) == shown


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode, b32encode])
@pytest.mark.parametrize("before", range(8))
def test_in_an_encoded_text_a_secret_is_found_wherever_it_stands(encode, before):
    """Of it is left at most what a character says of it that says something of its neighbour, too."""

    def characters(data: bytes) -> int:
        return len(encode(data).rstrip(b"="))

    for secret in (SECRET, SECRET[:-1], SECRET[:-2], SECRET[:-3], SECRET[:-4]):
        shown = strike(encode(b"x" * before + secret.encode() + b"y" * 7).decode(), secret)
        left, mark, right = shown.partition("***")
        assert mark
        assert len(left) <= characters(b"x" * before)
        assert len(right.rstrip("=")) <= characters(b"y" * 7) + 1


def test_what_stands_around_a_secret_stays():
    """Of what is not seen only that between its characters goes."""
    spelt = " ".join(SECRET)
    assert strike(f"a \u200b {spelt} \u200b b", SECRET) == "a \u200b *** \u200b b"
    assert strike(f"key: {SECRET.encode().hex(' ')} end", SECRET) == "key: *** end"


def test_words_that_happen_to_hold_a_short_secret_stay():
    """What has few characters stands in every other text, if blanks between them do not count."""
    assert strike("the test case", "hetest") == "the test case"
    assert strike("a hetest", "hetest") == "a ***"
    assert strike("61 62 63 64", "abcd") == "61 62 63 64"


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
    assert not any(spellings([short]))
