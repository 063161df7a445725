"""How a secret may be spelt in what a server says: as it is, with escapes as in JSON, URLs and HTML, or in base64."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from string import ascii_uppercase
from urllib.parse import quote

_SHORTEST = 4
"""Shorter secrets have no spellings: `on` or `1` would blot out half of every text."""
_SHORTEST_IN_BASE64 = 8
"""Characters of base64 that stand for a secret alone; fewer stand in every other text, too."""
_MOST_LAYERS = 4
"""How often escapes may be escaped themselves: JSON in JSON in a URL. More is done on purpose."""


def spellings(secret: str) -> frozenset[str]:
    """The texts by which a secret is found; escapes apart, which `places` undoes."""
    if len(secret) < _SHORTEST:
        return frozenset()
    # A secret may look as if it had escapes itself, and undoing those would lose it.
    return frozenset((secret, json.dumps(secret)[1:-1], quote(secret, safe="", errors="replace"), *_base64(secret)))


def _base64(secret: str) -> Iterator[str]:
    """What every text that holds the secret has in base64, wherever in it the secret stands."""
    data = secret.encode(errors="replace")
    for before in range(3):
        written = b64encode(b"\0" * before + data).decode()
        # The first and the last character may stand for bits of the neighbours.
        own = written[-(-8 * before // 6) : 8 * (before + len(data)) // 6]
        if len(own) >= _SHORTEST_IN_BASE64:
            yield own
            yield own.replace("+", "-").replace("/", "_")


_ESCAPE = re.compile(
    r"""\\(?: u([0-9a-f]{4}) | x([0-9a-f]{2}) | ([/"'\\]) | (n) )   # as in JSON and in Python
        | %([0-9a-f]{2}) | &\#([0-9]{1,6}); | &\#x([0-9a-f]{1,5});   # as in a URL and in HTML
    """,
    re.IGNORECASE | re.VERBOSE,
)


def places(text: str, wanted: Sequence[str]) -> list[tuple[int, int]]:
    """Where any of the wanted texts stands, plain or escaped: starts and ends, in order."""
    plain, starts = text, list(range(len(text) + 1))
    found = list(_found(plain, starts, wanted))
    for _ in range(_MOST_LAYERS):
        if _ESCAPE.search(plain) is None:
            break
        plain, begins = _unescaped(plain)
        starts = [starts[begin] for begin in begins]
        found += _found(plain, starts, wanted)
    return sorted(found)


def struck(text: str, spans: Iterable[tuple[int, int]], mark: str) -> str:
    """The text with one mark in place of each span, or of several that overlap; the spans are in order."""
    kept: list[str] = []
    until = 0
    for start, end in spans:
        if start >= until:
            kept += (text[until:start], mark)
        until = max(until, end)
    return "".join((*kept, text[until:]))


def _found(plain: str, starts: Sequence[int], wanted: Iterable[str]) -> Iterator[tuple[int, int]]:
    plain = plain.translate(_SMALL)
    for form in wanted:
        form = form.translate(_SMALL)
        at = plain.find(form)
        while at >= 0:
            yield starts[at], starts[at + len(form)]
            at = plain.find(form, at + 1)


_SMALL = {ord(capital): capital.lower() for capital in ascii_uppercase}
"""A host's name is written small, whatever it was; so is what looks like one. No text gets longer by this."""


def _unescaped(text: str) -> tuple[str, list[int]]:
    """The text that escapes stand for, and where each of its characters begins in the one given, and that ends."""
    plain: list[str] = []
    starts: list[int] = []
    at = 0
    for escape in _ESCAPE.finditer(text):
        plain += (*text[at : escape.start()], _meant(escape))
        starts += range(at, escape.start() + 1)
        at = escape.end()
    return "".join((*plain, text[at:])), [*starts, *range(at, len(text) + 1)]


def _meant(escape: re.Match[str]) -> str:
    in_json, in_python, itself, newline, in_url, decimal, in_html = escape.groups()
    if itself or newline:
        return itself or "\n"
    return chr(int(decimal) if decimal else int(in_json or in_python or in_url or in_html, 16))
