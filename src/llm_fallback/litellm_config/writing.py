"""A spec as a proxy's configuration."""

from __future__ import annotations

from typing import Any

from llm_fallback.litellm_config.losses import list_losses
from llm_fallback.litellm_config.sections import Listing
from llm_fallback.litellm_config.written_routes import Routes, routes_of
from llm_fallback.litellm_config.written_rows import Rows
from llm_fallback.litellm_config.written_texts import Texts
from llm_fallback.saving import FreshVariables, saved
from llm_fallback.spec import Breaker, Spec
from llm_fallback.spec.marks import Note


def write_config(spec: Spec) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """A configuration with which a LiteLLM proxy has the same chains, and what of the spec it cannot say.

    Variables become `os.environ/NAME`, and so do secrets in clear, with a name of their own.
    """
    data, notes = saved(spec)
    clean = Spec.model_validate(data)
    listing = Listing()
    list_losses(clean, listing)
    usual = _usual_breaker(clean)
    rows = Rows(clean, usual, Texts(FreshVariables(clean), listing), listing)
    routes = routes_of(clean)
    config = {
        "model_list": [
            rows.row(group.chain, group.name, name, routes.identity(group, name), shares=len(group.members) > 1)
            for group in routes.groups
            for name in group.members
        ],
        "router_settings": _router_settings(routes, usual),
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    return config, (*notes, *listing.notes(spec.places), _MASTER_KEY)


_MASTER_KEY = Note("general_settings.master_key", "a proxy does not start without: set LITELLM_MASTER_KEY")


def _usual_breaker(spec: Spec) -> Breaker | None:
    """What goes for deployments that say nothing of their own; None if no deployment has any."""
    if all(spec.breaker(name) is None for name in spec.deployments):
        return None
    default = spec.defaults.breaker
    return Breaker(**default.given()) if isinstance(default, Breaker) else Breaker()


def _router_settings(routes: Routes, usual: Breaker | None) -> dict[str, Any]:
    """One request per deployment and the next at once, as chains have it: no repeats, and in a group each member
    before the next group."""
    cooldowns: dict[str, Any] = {"disable_cooldowns": True}
    if usual is not None:
        cooldowns = {"allowed_fails": usual.failures, "cooldown_time": usual.cooldown_s}
    return {
        "routing_strategy": "simple-shuffle",
        "enable_weighted_failover": True,
        "num_retries": 0,
        "max_fallbacks": routes.most_hops,
        **cooldowns,
        **{word: entries for word, entries in routes.fallbacks.items() if entries},
    }
