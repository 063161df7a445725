"""Checks for what is valid in a spec's fleet but unwise; called by `checks`, which has all others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

from llm_fallback._imports import is_found
from llm_fallback.spec import Spec
from llm_fallback.spec.locations import Path
from llm_fallback.spec.secrets import secrets_of_address
from llm_fallback.spec.variables import filled, unset

_Results = Iterator[tuple[Path, str]]


def file_of_two(spec: Spec, environ: Mapping[str, str]) -> _Results:
    """A fleet's file that a chain's budget is kept in, too: each makes the other's contents unreadable."""
    store = _address(spec, environ)
    if not store.startswith("file:"):
        return
    path = os.path.realpath(unquote(urlsplit(store).path))
    for name in spec.chains:
        budget = spec.budget(name)
        file = "" if budget is None or budget.file is None else _text(budget.file, environ)
        if file and os.path.realpath(file) == path:
            yield ("chains", name, "budget", "file"), "is the file of the fleet's store, too; give each one of its own"


def unwise_fleet(spec: Spec, environ: Mapping[str, str]) -> _Results:
    """A store that cannot be used here, or that anybody who reads it can read."""
    store, path = _address(spec, environ), ("fleet", "store")
    if not store or store.startswith("file:"):
        return
    if not is_found("redis"):
        yield path, 'redis is not installed here: pip install "langchain-llm-fallback[redis]"'
    if spec.fleet is not None and spec.fleet.secret is None and not any(secrets_of_address(store)):
        yield (
            path,
            "has no password, and there is no fleet.secret: who reads the store and guesses a name recognises it; "
            "write secret: ${NAME}",
        )


def unknown_processes(spec: Spec) -> _Results:
    """Limits that every process takes for its own where the store was never reached."""
    if spec.fleet is None or "processes" in spec.fleet.model_fields_set:
        return
    limited = [name for name, deployment in spec.deployments.items() if deployment.limits is not None]
    if limited:
        yield (
            ("fleet",),
            f"does not say how many processes there are: where the store was never reached, each sends as much as the "
            f"limits of {', '.join(limited)} allow to all; write processes",
        )


def _address(spec: Spec, environ: Mapping[str, str]) -> str:
    """The store's, in clear; empty where there is none, or a variable of it is not set."""
    return "" if spec.fleet is None else _text(spec.fleet.store, environ)


def _text(text: str, environ: Mapping[str, str]) -> str:
    return "" if unset(text, environ) else filled(text, environ)
