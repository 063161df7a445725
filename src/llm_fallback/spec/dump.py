"""Writes a spec as plain data that `load_spec` reads back, with variables in place of secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import yaml
from pydantic import SecretStr

from llm_fallback.spec.locations import Note, Path, Problem
from llm_fallback.spec.model import Spec
from llm_fallback.spec.secrets import is_secret_name, secrets_of_address
from llm_fallback.spec.settings import ROUTES
from llm_fallback.spec.variables import beside, references

_LEFT_OUT = object()
_SCHEMES = ("", "Bearer", "Basic", "Token")
_NO_SECRETS = frozenset({"empty", "none", "dummy", "no-key", "not-needed", "sk-no-key-required"})
"""Keys that are written where a client wants one and the server does not."""
_SECTION_ORDER = ("defaults", "deployments", "chains", "default_chain", "runnables", "fleet", "serve")
_DEPLOYMENT_ORDER = ("backend", "model", "base_model", "api_key", "api_base", "params")


def dump_spec(spec: Spec) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """The data of a spec, and notes on every value that was replaced by a variable or left out.

    A key in clear becomes a reference to a variable named after its deployment.
    """
    dumper = _Dumper(spec)
    data = dumper.plain(spec.model_dump(), ())
    chains = data.get("chains", {})
    for chain in chains.values():
        chain.update({route: dump_tiers(chain[route]) for route in ROUTES if chain.get(route)})
    if len(chains) == 1:
        del data["default_chain"]
    data["deployments"] = {name: _ordered(entry, _DEPLOYMENT_ORDER) for name, entry in data["deployments"].items()}
    data["chains"] = {name: _ordered(chain, ROUTES) for name, chain in chains.items()}
    notes = tuple(problem.note(spec.locations) for problem in dumper.problems)
    return {part: value for part, value in _ordered(data, _SECTION_ORDER).items() if value}, notes


def dump_tiers(tiers: Sequence[Sequence[str]]) -> list[Any]:
    """Tiers as a spec has them: a tier of one deployment is its name, others are lists."""
    return [tier[0] if len(tier) == 1 else list(tier) for tier in tiers]


def as_yaml(data: Mapping[str, Any]) -> str:
    """Data as YAML: sections in blocks, their innermost values on one line, no anchors."""
    style: dict[str, Any] = {"default_flow_style": None, "sort_keys": False, "allow_unicode": True, "width": 110}
    return str(yaml.dump(dict(data), Dumper=_YamlDumper, **style))


class _YamlDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class VariableNames:
    """Makes up names of variables that the spec does not use."""

    def __init__(self, spec: Spec) -> None:
        self._taken = {reference.name for _, reference in spec.references()}

    def name(self, path: Path) -> str:
        """A new name for the value at a path: `deployments.llama-a.api_key` becomes `LLAMA_A_API_KEY`."""
        parts = [str(part) for part in path if part not in ("deployments", "params")]
        wanted = re.sub(r"\W+", "_", "_".join(parts), flags=re.ASCII).strip("_").upper()
        wanted = wanted if wanted and not wanted[0].isdigit() else f"LLM_{wanted}"
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


class _Dumper:
    """Turns the values of one spec into plain data and collects the problems."""

    def __init__(self, spec: Spec) -> None:
        self._variable_names = VariableNames(spec)
        self._name_by_text: dict[str, str] = {}
        self.problems: list[Problem] = []

    def plain(self, value: Any, path: Path) -> Any:
        match value:
            case SecretStr():
                text = value.get_secret_value()
                return text if _is_harmless(text, path) else self._variable(text, path, "is a secret in clear")
            case Decimal() | float():
                return int(value) if value == int(value) else float(value)
            case Mapping():
                items = ((key, self.plain(item, (*path, key))) for key, item in value.items())
                return {key: item for key, item in items if item is not _LEFT_OUT}
            case list() | tuple():
                return [self.plain(item, (*path, index)) for index, item in enumerate(value)]
            case str() if any(secrets_of_address(value)) and not references(value):
                return self._variable(str(value), path, "has a password or a key in it")
            case str():
                return str(value)
        return self._function(value, path) if callable(value) else value

    def _variable(self, text: str, path: Path, why: str) -> str:
        """A reference in place of a text; equal texts get the same one."""
        if text not in self._name_by_text:
            self._name_by_text[text] = self._variable_names.name(path)
        name = self._name_by_text[text]
        self.problems.append(Problem(path, f"{why}: set {name} to it"))
        return f"${{{name}}}"

    def _function(self, function: Callable[..., Any], path: Path) -> Any:
        if path[-1] == "api_key":
            name = self._variable_names.name(path)
            self.problems.append(Problem(path, f"is a function: set {name} to what it returns"))
            return f"${{{name}}}"
        import_path = f"{function.__module__}:{getattr(function, '__qualname__', '<')}"
        if "<" not in import_path:
            return import_path
        self.problems.append(Problem(path, "is a function that cannot be imported: left out"))
        return _LEFT_OUT


def _is_harmless(text: str, path: Path) -> bool:
    """Whether a SecretStr only refers to the secret, as in `${KEY}` or `Bearer ${KEY}`, or is a key that is none."""
    variables = references(text)
    if not variables:
        return path[-1:] == ("api_key",) and text.casefold() in _NO_SECRETS
    if not any(isinstance(part, str) and is_secret_name(part) for part in path):
        return True
    return beside(text).strip() in _SCHEMES and not any(reference.default for reference in variables)


def _ordered(entry: Mapping[str, Any], first: Sequence[str]) -> dict[str, Any]:
    """The entry with the keys in `first` before all others."""
    return {word: entry[word] for word in (*(word for word in first if word in entry), *entry)}
