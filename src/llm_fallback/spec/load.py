"""Loads a Spec from files, mappings or model names, reporting every mistake at once with path, file and line.

Nothing is resolved and nothing is sent: `${NAME}` stays as it is until a model is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path as FilePath
from typing import Any

from llm_fallback.errors import Mistake, Repeated, SpecError
from llm_fallback.spec import consistency
from llm_fallback.spec.error_messages import validate
from llm_fallback.spec.files import read_file, read_mapping
from llm_fallback.spec.litellm_proxy import is_config
from llm_fallback.spec.locations import LocationMap, Note, Path, Problem
from llm_fallback.spec.model import Spec, without_foreign_keys
from llm_fallback.spec.parsers import Document, unreadable
from llm_fallback.spec.providers import with_slash
from llm_fallback.spec.typed_dicts import SpecDict

Source = Spec | FilePath | str | SpecDict | Mapping[str, Any] | Sequence[str]
"""A spec, the path of a file, a mapping, or the models of one chain."""


def load_spec(*sources: Source) -> Spec:
    """One spec from one or more sources: later ones win, mappings merge, lists replace, null removes.

    The suffix of a path decides whether it is read as YAML, TOML or JSON. A list of models becomes one chain,
    `default`, that tries them in order. The configuration of a LiteLLM proxy is translated; `notes` of the result
    list what could not be. A single `Spec` is returned as it is. Raises SpecError with every mistake in all sources.
    """
    outcome = _loaded(sources)
    # A traceback shows this frame; the sources may hold keys in clear.
    del sources
    if isinstance(outcome, Spec):
        return outcome
    raise SpecError(outcome)


def _loaded(sources: Sequence[Source]) -> Spec | list[Mistake]:
    if len(sources) == 1 and isinstance(sources[0], Spec):
        return sources[0]
    documents = [_as_spec(_read(source)) for source in sources] or [unreadable("there is no source", "name a file")]
    mistakes = [mistake for document in documents for mistake in document.mistakes]
    if not all(document.readable for document in documents):
        return mistakes
    outcome = _checked(reduce(overlaid, documents))
    if isinstance(outcome, Spec) and not mistakes:
        return outcome
    return sorted([*mistakes, *([] if isinstance(outcome, Spec) else outcome)], key=_in_file)


def _read(source: Source) -> Document:
    match source:
        case Spec():
            document = read_mapping(source.model_dump())
            return replace(
                document, locations=source.locations.known, notes=source.notes, variables=source.own_variables()
            )
        case FilePath() | str():
            return read_file(FilePath(source))
        case Mapping():
            return read_mapping(source)
        case Sequence() if all(isinstance(model, str) for model in source):
            return read_mapping(_one_chain(source)) if source else unreadable("the list of models is empty")
    mistake = no_source(source)
    return unreadable(mistake.problem, mistake.remedy)


def no_source(source: object) -> Mistake:
    """Why something is no source of a spec, and what to give instead."""
    if isinstance(source, Sequence):
        odd = next((item for item in source if not isinstance(item, str)), None)
        return Mistake("", f"a list names models, and this one has {_kind(odd)}", _in_place_of(odd))
    return Mistake("", f"a spec cannot be read from {_kind(source)}", _in_place_of(source))


def _kind(thing: object) -> str:
    """What is given, in words. Judged by its attributes: nothing of LangChain's or litellm's is imported here."""
    if hasattr(thing, "bind_tools") and hasattr(thing, "invoke"):
        return f"a chat model, {type(thing).__name__}"
    return "a mapping" if isinstance(thing, Mapping) else type(thing).__name__


def _in_place_of(thing: object) -> str:
    if isinstance(thing, Mapping) and "litellm_params" in thing:
        return "write {'model_list': [...]} around it"
    if isinstance(thing, Mapping):
        return "write {'deployments': {'own': {...}}, 'chains': {'main': {'tiers': ['own']}}}"
    if hasattr(thing, "model_list"):
        return "give its deployments: {'model_list': router.model_list}"
    if hasattr(thing, "bind_tools") and hasattr(thing, "invoke"):
        return "name what it asks: 'openai/gpt-4.1', or a deployment with its model and api_base"
    return "give a path, a mapping or a list of models"


def _as_spec(document: Document) -> Document:
    """The configuration of a LiteLLM proxy, translated; any other document unchanged."""
    if not document.readable or not is_config(document.data):
        return document
    from llm_fallback.spec.litellm_proxy.read import read_config

    locations = LocationMap(document.locations)
    spec = read_config(document.data, locations)
    repeated = [mistake for mistake in document.mistakes if isinstance(mistake, Repeated)]
    if "deployments" in spec.data:
        # LiteLLM takes the last of two keys without a word; so do we, and say so.
        warnings = (
            Note(it.path, f"{it.problem}: the last one is taken", it.file, it.line, "warning") for it in repeated
        )
        mistakes = tuple(mistake for mistake in document.mistakes if mistake not in repeated)
        return replace(spec, mistakes=mistakes, notes=(*warnings, *spec.notes))
    reasons = [Mistake(note.path, note.text, None, note.file, note.line) for note in spec.notes]
    nothing = Problem(("model_list",), "has no model that could be a deployment").at(locations)
    return Document(mistakes=(*document.mistakes, nothing, *reasons), readable=False)


def _checked(document: Document) -> Spec | list[Mistake]:
    locations = LocationMap(document.locations, document.notes)
    data = without_foreign_keys(document.data)
    outcome = validate(Spec, data, locations)
    problems = consistency.problems(data)
    if isinstance(outcome, Spec) and not problems:
        return outcome.with_variables(document.variables)
    problems = [*([] if isinstance(outcome, Spec) else outcome), *problems]
    return [problem.at(locations) for problem in problems]


def _in_file(mistake: Mistake) -> tuple[str, int]:
    return mistake.file or "", 0 if mistake.line is None else mistake.line


def _one_chain(models: Sequence[str]) -> dict[str, Any]:
    """The data of a spec with one chain that tries the models in order; deployments are named after them."""
    names = _deployment_names(models)
    deployments = {name: {"model": model} for name, model in zip(names, models, strict=True)}
    return {"deployments": deployments, "chains": {"default": {"tiers": names}}}


def _deployment_names(models: Sequence[str]) -> list[str]:
    """The models without their provider; equal ones with it, and those still equal with a number."""
    full = [with_slash(model) for model in models]
    short = [model.rpartition("/")[2] or model for model in full]
    names = [name if short.count(name) == 1 else model for name, model in zip(short, full, strict=True)]
    return [
        name if names[:index].count(name) == 0 else f"{name}#{names[: index + 1].count(name)}"
        for index, name in enumerate(names)
    ]


def overlaid(base: Document, over: Document) -> Document:
    """`over` laid over `base`; each value keeps the location in the document it came from."""
    shared = {
        path: base.locations[path] for path in _shared_mappings(base.data, over.data, ()) if path in base.locations
    }
    locations = {**base.locations, **over.locations, **shared}
    return Document(
        merged(base.data, over.data),
        locations,
        notes=(*base.notes, *over.notes),
        variables={**base.variables, **over.variables},
    )


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` merged into `base`. A null removes the key if `base` has it, and stays otherwise."""
    result = dict(base)
    for key, value in over.items():
        if value is None and key in result:
            del result[key]
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _shared_mappings(base: Any, over: Any, path: Path) -> Iterator[Path]:
    """The path of every mapping that both have: it is found where `base` begins it."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        yield path
        for key in base.keys() & over.keys():
            yield from _shared_mappings(base[key], over[key], (*path, key))
