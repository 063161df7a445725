"""A proxy's configuration as the data of a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llm_fallback.litellm_config.chains import most_hops, put_chains
from llm_fallback.litellm_config.deployments import put_deployments
from llm_fallback.litellm_config.groups import grouped
from llm_fallback.litellm_config.routes import EVERYBODY, Fallbacks
from llm_fallback.litellm_config.rows import read_rows
from llm_fallback.litellm_config.sections import Draft, Listing, Section
from llm_fallback.litellm_config.settings import Settings, read_defaults
from llm_fallback.litellm_config.words import ROUTES
from llm_fallback.spec.marks import Note, Path, Place, Places


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration as a spec: its data, the places of its parts, and what has no place in it."""

    data: dict[str, Any]
    places: Mapping[Path, Place]
    notes: tuple[Note, ...]


def read_config(data: Mapping[str, Any], places: Places) -> Reading:
    """The spec that a configuration amounts to; without `deployments` if no model of it can be one."""
    listing, config = Listing(), Section(data, ())
    settings = Settings(config, listing)
    defaults = read_defaults(settings, listing)
    spec = Draft()
    if defaults.data:
        spec.put(("defaults",), defaults.data, next(iter(defaults.origins.values())))
        spec.origins.update({("defaults", *path): origin for path, origin in defaults.origins.items()})
    kinds = {route: Fallbacks(*settings.take(word), listing) for word, route in ROUTES.items()}
    _put_everybody(kinds["tiers"], settings)
    aliases = _aliases(settings)
    rows = read_rows(config.take("model_list"), _credentials(config), listing)
    groups = grouped(list(rows), listing)
    deployments = put_deployments(spec, groups, list(kinds.values()))
    put_chains(spec, deployments, kinds, aliases, listing)
    hops, path = settings.take("max_fallbacks")
    if isinstance(hops, int) and hops < most_hops(spec):
        listing.add(path, "every fallback is tried here, however many there are")
    if config.take("include") is not None:
        listing.add(("include",), "is not read here: give its files as further sources")
    settings.rest()
    listing.rest(config, "is the proxy server's own and has no place here")
    known = {path: places.find(origin) for path, origin in spec.origins.items()}
    return Reading(spec.data, known, listing.notes(places))


def _credentials(config: Section) -> dict[str, Any]:
    entries = config.take("credential_list")
    found = [Section(entry, ()) for entry in entries] if isinstance(entries, list) else []
    return {str(entry.take("credential_name")): dict(_values(entry)) for entry in found}


def _values(entry: Section) -> Iterator[tuple[str, Any]]:
    return Section(entry.take("credential_values"), ()).left()


def _put_everybody(fallbacks: Fallbacks, settings: Settings) -> None:
    """`default_fallbacks` stand in for whoever has no entry of its own."""
    targets, path = settings.take("default_fallbacks")
    if targets is not None:
        fallbacks.add(EVERYBODY, targets, path)


def _aliases(settings: Settings) -> dict[str, str]:
    value, path = settings.take("model_group_alias")
    targets = dict(Section(value, path).left())
    return {name: str(to.get("model") if isinstance(to, Mapping) else to) for name, to in targets.items()}
