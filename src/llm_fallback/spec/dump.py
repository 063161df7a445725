"""A spec as plain data again, for a file: what loading reads, without a secret in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import yaml
from pydantic import SecretStr

from llm_fallback.spec.locations import Note, Path, Problem
from llm_fallback.spec.model import Spec
from llm_fallback.spec.secrets import is_secret_name, password_of
from llm_fallback.spec.settings import ROUTES
from llm_fallback.spec.variables import beside, references

_SCHEMES = ("", "Bearer", "Basic", "Token")
_PARTS = ("defaults", "deployments", "chains", "default_chain", "runnables")
_WHO_IS_ASKED = ("backend", "model", "base_model", "api_key", "api_base", "params")


def dump_spec(spec: Spec) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """The data of a spec, and what stands in place of a secret or could not be written.

    A key in clear becomes a reference to a variable that is named after its deployment.
    """
    dumper = _Dumper(spec)
    data = dumper.plain(spec.model_dump(), ())
    chains = data.get("chains", {})
    for chain in chains.values():
        chain.update({route: _tiers(chain[route]) for route in ROUTES if chain.get(route)})
    if len(chains) == 1:
        del data["default_chain"]
    data["deployments"] = {name: _ordered(entry, _WHO_IS_ASKED) for name, entry in data["deployments"].items()}
    data["chains"] = {name: _ordered(chain, ROUTES) for name, chain in chains.items()}
    notes = tuple(problem.note(spec.locations) for problem in dumper.problems)
    return {part: value for part, value in _ordered(data, _PARTS).items() if value}, notes


def as_yaml(data: Mapping[str, Any]) -> str:
    """Data as YAML: sections in blocks, what is in them on one line each, and nothing by reference."""
    style: dict[str, Any] = {"default_flow_style": None, "sort_keys": False, "allow_unicode": True, "width": 110}
    return str(yaml.dump(dict(data), Dumper=_YamlDumper, **style))


class _YamlDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class VariableNames:
    """Names of variables that a spec does not use yet."""

    def __init__(self, spec: Spec) -> None:
        self._taken = {reference.name for _, reference in spec.references()}

    def name(self, path: Path) -> str:
        """A name for what stands at a path: `deployments.llama-a.api_key` is `LLAMA_A_API_KEY`."""
        parts = [str(part) for part in path if part not in ("deployments", "params")]
        wanted = re.sub(r"\W+", "_", "_".join(parts), flags=re.ASCII).strip("_").upper()
        wanted = wanted if wanted and not wanted[0].isdigit() else f"LLM_{wanted}"
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


class _Dumper:
    """One spec on its way into a file."""

    def __init__(self, spec: Spec) -> None:
        self._fresh = VariableNames(spec)
        self._names: dict[str, str] = {}
        self.problems: list[Problem] = []

    def plain(self, value: Any, path: Path) -> Any:
        match value:
            case SecretStr():
                return self._reference(value.get_secret_value(), path)
            case Decimal() | float():
                return int(value) if value == int(value) else float(value)
            case Mapping():
                items = ((key, self.plain(item, (*path, key))) for key, item in value.items())
                return {key: item for key, item in items if item is not _NOTHING}
            case list() | tuple():
                return [self.plain(item, (*path, index)) for index, item in enumerate(value)]
            case str() if any(password_of(value)) and not references(value):
                return self._variable(value, path, "has a password in it")
        return self._function(value, path) if callable(value) else value

    def _reference(self, text: str, path: Path) -> str:
        return text if _is_harmless(text, path) else self._variable(text, path, "is a secret in clear")

    def _variable(self, text: str, path: Path, why: str) -> str:
        """A reference in place of a text; the same one wherever the text stands."""
        if text not in self._names:
            self._names[text] = self._fresh.name(path)
        name = self._names[text]
        self.problems.append(Problem(path, f"{why}: set {name} to it"))
        return f"${{{name}}}"

    def _function(self, function: Callable[..., Any], path: Path) -> Any:
        if path[-1] == "api_key":
            name = self._fresh.name(path)
            self.problems.append(Problem(path, f"is a function: set {name} to what it returns"))
            return f"${{{name}}}"
        import_path = f"{function.__module__}:{getattr(function, '__qualname__', '<')}"
        if "<" not in import_path:
            return import_path
        self.problems.append(Problem(path, "is a function that cannot be imported: left out"))
        return _NOTHING


_NOTHING = object()


def _is_harmless(text: str, path: Path) -> bool:
    """Whether a text that may be a secret only says where it is: `${KEY}`, `Bearer ${KEY}`."""
    named = references(text)
    if not named:
        return False
    if not any(isinstance(part, str) and is_secret_name(part) for part in path):
        return True
    return beside(text).strip() in _SCHEMES and not any(reference.default for reference in named)


def _ordered(entry: Mapping[str, Any], first: Sequence[str]) -> dict[str, Any]:
    """The entry with those words first that a reader looks for first."""
    return {word: entry[word] for word in (*(word for word in first if word in entry), *entry)}


def _tiers(tiers: list[list[str]]) -> list[Any]:
    return [tier[0] if len(tier) == 1 else tier for tier in tiers]
