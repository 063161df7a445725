"""How a secret may be spelt in what a server says: plain, escaped, in base64, base32 or hex, or in pieces."""

from __future__ import annotations

import json
import re
from base64 import b32encode, b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from string import ascii_uppercase
from typing import NamedTuple
from urllib.parse import quote

_SHORTEST = 4
"""Shorter secrets have no spellings: `on` or `1` would blot out half of every text."""
_SHORTEST_APART = 8
"""Characters of a spelling that is found with others between its own, and of one that stands for a secret alone; fewer
stand in every other text, too."""
_MOST_LAYERS = 4
"""How often escapes may be escaped themselves: JSON in JSON in a URL. More is done on purpose."""


_SMALL = {ord(capital): capital.lower() for capital in ascii_uppercase}
"""A host's name is written small, whatever it was; so is what looks like one. No text gets longer by this."""


class Wanted(NamedTuple):
    """What is looked for, in small letters."""

    short: frozenset[str] = frozenset()
    """As it is."""
    apart: frozenset[str] = frozenset()
    """With what is not seen between its characters."""
    digits: frozenset[str] = frozenset()
    """Hexadecimal ones, as dumps write them."""


NOTHING = Wanted()


def spellings(secrets: Iterable[str]) -> Wanted:
    """The texts by which secrets are found; escapes apart, which `places` undoes."""
    long = [secret for secret in secrets if len(secret) >= _SHORTEST]
    forms = {form.translate(_SMALL) for secret in long for form in _forms(secret)}
    apart = {form: _UNSEEN.sub("", form) for form in forms}
    return Wanted(
        frozenset(form for form, bare in apart.items() if len(bare) < _SHORTEST_APART),
        frozenset(bare for bare in apart.values() if len(bare) >= _SHORTEST_APART),
        frozenset(secret.encode(errors="replace").hex() for secret in long if len(secret) >= _SHORTEST_APART),
    )


def _forms(secret: str) -> Iterator[str]:
    # A secret may look as if it had escapes itself, and undoing those would lose it.
    yield from (secret, json.dumps(secret)[1:-1], quote(secret, safe="", errors="replace"))
    data = secret.encode(errors="replace")
    for form in _within(data, b64encode, bytes_=3, characters=4):
        yield from (form, form.replace("+", "-").replace("/", "_"))
    yield from _within(data, b32encode, bytes_=5, characters=8)


def _within(data: bytes, encode: Callable[[bytes], bytes], *, bytes_: int, characters: int) -> Iterator[str]:
    """What every text that holds the data has when it is encoded, wherever in it they stand. Each group of bytes
    becomes one of characters."""
    for before in range(bytes_):
        written = encode(b"\0" * before + data).decode()
        # The first and the last character may stand for bits of the neighbours.
        own = written[-(-characters * before // bytes_) : characters * (before + len(data)) // bytes_]
        if len(own) >= _SHORTEST_APART:
            yield own


_ESCAPE = re.compile(
    r"""\\(?: u([0-9a-f]{4}) | x([0-9a-f]{2}) | ([/"'\\]) | ([nrt]) )   # as in JSON and in Python
        | %([0-9a-f]{2}) | &\#([0-9]{1,6}); | &\#x([0-9a-f]{1,5});   # as in a URL and in HTML
    """,
    re.IGNORECASE | re.VERBOSE,
)
_UNSEEN = re.compile(
    r"""\x1b\[[0-?]*[ -/]*[@-~]   # what colours a terminal
        | [\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f
           \u205f-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]
    """,
    re.VERBOSE,
)
"""White space, and what has no width or is no character for the eye."""
_BETWEEN_DIGITS = re.compile(rf"{_UNSEEN.pattern} | [:,;_.-] | (?<![0-9a-f])0x", re.VERBOSE)
"""What stands between pairs of digits: `73:6b`, `0x73 0x6b`."""


def places(text: str, wanted: Wanted) -> list[tuple[int, int]]:
    """Where any of the wanted texts stands, plain, escaped or apart: starts and ends, in order."""
    if wanted == NOTHING:
        return []
    plain = _Shown(text, range(len(text)), range(1, len(text) + 1))
    found = plain.find(wanted)
    for _ in range(_MOST_LAYERS):
        if _ESCAPE.search(plain.text) is None:
            break
        plain = plain.unescaped()
        found += plain.find(wanted)
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


class _Shown(NamedTuple):
    """A text made of another one, and where each of its characters begins and ends in that."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def find(self, wanted: Wanted) -> list[tuple[int, int]]:
        """Where the wanted texts stand."""
        shown = _Shown(self.text.translate(_SMALL), self.starts, self.ends)
        found: list[tuple[int, int]] = []
        for unread, forms in ((None, wanted.short), (_UNSEEN, wanted.apart), (_BETWEEN_DIGITS, wanted.digits)):
            text = shown.text if unread is None else unread.sub("", shown.text)
            for form in forms:
                if form in text:  # Which costs no call, and hardly ever is so.
                    read = shown if unread is None else shown.without(unread)
                    found += read._places_of(form)
        return found

    def _places_of(self, form: str) -> Iterator[tuple[int, int]]:
        at = self.text.find(form)
        while at >= 0:
            yield self.starts[at], self.ends[at + len(form) - 1]
            at = self.text.find(form, at + 1)

    def without(self, pattern: re.Pattern[str]) -> _Shown:
        """The text without what matches."""
        kept: list[int] = []
        at = 0
        for match in pattern.finditer(self.text):
            kept += range(at, match.start())
            at = match.end()
        kept += range(at, len(self.text))
        return _Shown(
            "".join([self.text[at] for at in kept]), [self.starts[at] for at in kept], [self.ends[at] for at in kept]
        )

    def unescaped(self) -> _Shown:
        """The text that escapes stand for."""
        plain: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for escape in _ESCAPE.finditer(self.text):
            plain += (self.text[at : escape.start()], _meant(escape))
            starts += self.starts[at : escape.start() + 1]
            ends += (*self.ends[at : escape.start()], self.ends[escape.end() - 1])
            at = escape.end()
        return _Shown("".join((*plain, self.text[at:])), [*starts, *self.starts[at:]], [*ends, *self.ends[at:]])


def _meant(escape: re.Match[str]) -> str:
    in_json, in_python, itself, blank, in_url, decimal, in_html = escape.groups()
    if itself or blank:
        return itself or "\n"
    return chr(int(decimal) if decimal else int(in_json or in_python or in_url or in_html, 16))
