"""What a spec says that a proxy's configuration has no word for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm_fallback.litellm_config.sections import Listing
from llm_fallback.litellm_config.words import ABILITIES, PRICES
from llm_fallback.spec import Breaker, Price, Spec
from llm_fallback.spec.marks import Path

_NO_WORD = "LiteLLM has no word for it"
_OF_A_CHAIN: Mapping[str, str] = {
    "hedge": _NO_WORD,
    "on_stream_break": _NO_WORD,
    "accept": _NO_WORD,
    "budget": f"{_NO_WORD} in a configuration",
    "retries": "LiteLLM repeats before it falls back; so it is told not to repeat at all",
}
_TIMEOUTS = {
    "total_s": "nothing bounds a call as a whole in LiteLLM",
    "first_token_s": "as stream_timeout it bounds every pause of the stream, too",
    "idle_s": _NO_WORD,
}


def list_losses(spec: Spec, listing: Listing) -> None:
    """List everything that was written and is lost, or means less."""
    for path, text in _losses(spec):
        listing.add(path, text)


def _losses(spec: Spec) -> Iterator[tuple[Path, str]]:
    for path, entry in (
        (("defaults",), spec.defaults),
        *((("chains", name), chain) for name, chain in spec.chains.items()),
        *((("deployments", name), deployment) for name, deployment in spec.deployments.items()),
    ):
        given = entry.given()
        for word, text in _OF_A_CHAIN.items():
            if given.get(word) not in (None, "off", "raise"):
                yield (*path, word), text
        yield from _within((*path, "timeouts"), given.get("timeouts"), _TIMEOUTS)
        yield from _within((*path, "breaker"), given.get("breaker"), dict.fromkeys(_BREAKER, _NO_WORD))
        if given.get("cold_start") is not None:
            yield (*path, "cold_start"), _NO_WORD
    yield from _of_deployments(spec)
    for name, chain in spec.chains.items():
        if all(spec.deployments[member].weight == 0 for tier in chain.tiers for member in tier):
            yield ("chains", name), "every deployment of its tiers has weight 0: left out"
    for name in spec.runnables:
        yield ("runnables", name), _NO_WORD


_BREAKER = tuple(word for word in Breaker.model_fields if word not in ("failures", "cooldown_s"))


def _within(path: Path, part: Any, texts: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    given = part.given() if hasattr(part, "given") else {}
    for word, text in texts.items():
        if given.get(word) is not None:
            yield (*path, word), text


def _of_deployments(spec: Spec) -> Iterator[tuple[Path, str]]:
    asked = [name for chain in spec.chains.values() for name in chain.deployments()]
    prices = {field for field, _ in PRICES.values()}
    for name, own in spec.deployments.items():
        path = ("deployments", name)
        if name not in asked:
            yield path, "no chain asks it: left out"
        elif own.weight == 0:
            yield (*path, "weight"), "LiteLLM would ask it when the others are down: left out"
        elif asked.count(name) > 1 and spec.limits(name) is not None:
            yield (*path, "limits"), "LiteLLM counts for each chain on its own"
        for word in own.profile:
            if word not in ABILITIES.values():
                yield (*path, "profile", word), _NO_WORD
        given = own.price.given() if isinstance(own.price, Price) else {}
        for word in given:
            if word not in prices:
                yield (*path, "price", word), _NO_WORD
        if "per_gpu_hour" in given and len(given) > 1:
            yield (*path, "price", "per_gpu_hour"), "LiteLLM passes it over beside a price per token"
