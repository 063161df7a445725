"""Bytes and documents that were something once: a seed that is cut, doubled, mixed with another or changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.corpus.test_mutations import ODD
from tests.thinning import examples

TIMES = int(os.environ.get("FUZZ", "1"))
"""How many times as many inputs are tried as in `make test-all`."""

SMALL_ODD = tuple(value for value in ODD if not (isinstance(value, str) and len(value) > 6_000))


def tries(full: int) -> settings:
    """How many inputs a test tries; a spoilt input may be slow to draw."""
    return settings(
        max_examples=examples(full) * TIMES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )


@st.composite
def spoilt_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed with up to four changes."""
    made = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(made)))
        end = min(len(made), start + draw(st.integers(0, 40)))
        other = draw(st.sampled_from(seeds))
        part = other[draw(st.integers(0, len(other))) :][: draw(st.integers(0, 60))]
        new = draw(
            st.sampled_from((b"", made[start:end] * 2, part, b"\r", b"\n\n", b"\xff", b"\x00")) | st.binary(max_size=8)
        )
        made = made[:start] + new + made[end:]
    return made


@st.composite
def spoilt_document(draw: st.DrawFn, seeds: Sequence[Any]) -> Any:
    """A seed in which up to three values are others, are gone, or have another name."""
    made = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 3))):
        made = _changed(made, draw)
    return made


def _changed(value: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    if not value or not isinstance(value, dict | list) or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(SMALL_ODD) | st.text(max_size=5) | st.integers() | st.floats())
    if isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _changed(value[at], draw), *value[at + 1 :]]
    name = draw(st.sampled_from(list(value)))
    rest = {key: inner for key, inner in value.items() if key != name}
    match draw(st.integers(0, 6)):
        case 0:
            return rest
        case 1:
            return {**rest, draw(st.text(max_size=4) | st.sampled_from(list(value))): value[name]}
        case _:
            return {key: _changed(inner, draw) if key == name else inner for key, inner in value.items()}
