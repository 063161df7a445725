"""Files and mappings in, one Spec out; every mistake at once, with its path, file and line.

Nothing is resolved and nothing is sent: `${NAME}` stays as it is until a model is built. Of several documents later
ones win, mappings merge, lists replace, null removes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path as FilePath
from typing import Any

from llm_fallback.errors import Mistake, SpecError
from llm_fallback.spec import consistency
from llm_fallback.spec.error_messages import parsed
from llm_fallback.spec.files import read_file, read_mapping, read_spec
from llm_fallback.spec.litellm_proxy import is_config
from llm_fallback.spec.locations import LocationMap, Path, Problem
from llm_fallback.spec.model import Spec, own_words
from llm_fallback.spec.parsers import Document, unreadable
from llm_fallback.spec.providers import with_slash

Source = Spec | FilePath | str | Mapping[str, Any] | Sequence[str]
"""A spec, a file of one, its data, or the models of a chain in one line."""


def load_spec(*sources: Source) -> Spec:
    """One spec from one or more sources: later ones win, mappings merge, lists replace, null removes.

    A path is read as YAML, TOML or JSON by its suffix; a list of models is a chain in one line. The configuration
    of a LiteLLM proxy is taken for the spec it amounts to; `notes` of the result lists what has no place in one. A
    `Spec` alone is returned as it is. Raises SpecError with every mistake in all of them.
    """
    outcome = _loaded(sources)
    # A traceback shows this frame; the sources may hold keys in clear.
    del sources
    if isinstance(outcome, Spec):
        return outcome
    raise SpecError(outcome)


def spec_of_models(models: Sequence[str]) -> Spec:
    """A spec of one chain, `default`, that tries the models in order; deployments are named after them."""
    return load_spec(models)


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
            return read_spec(source.model_dump(), source.locations)
        case FilePath() | str():
            return read_file(FilePath(source))
        case Mapping():
            return read_mapping(source)
        case Sequence() if all(isinstance(model, str) for model in source):
            return read_mapping(_in_one_line(source)) if source else unreadable("the list of models is empty")
    return unreadable(f"a source is a path, a mapping or a list of models, not a {type(source).__name__}")


def _as_spec(document: Document) -> Document:
    """The configuration of a LiteLLM proxy as a spec; anything else as it is."""
    if not document.readable or not is_config(document.data):
        return document
    from llm_fallback.spec.litellm_proxy.read import read_config

    locations = LocationMap(document.locations)
    spec = read_config(document.data, locations)
    if "deployments" in spec.data:
        return replace(spec, mistakes=document.mistakes)
    reasons = [Mistake(note.path, note.text, None, note.file, note.line) for note in spec.notes]
    nothing = Problem(("model_list",), "has no model that could be a deployment").at(locations)
    return Document(mistakes=(*document.mistakes, nothing, *reasons), readable=False)


def _checked(document: Document) -> Spec | list[Mistake]:
    locations = LocationMap(document.locations, document.notes)
    data = own_words(document.data)
    outcome = parsed(Spec, data, locations)
    problems = consistency.problems(data)
    if isinstance(outcome, Spec) and not problems:
        return outcome
    problems = [*([] if isinstance(outcome, Spec) else outcome), *problems]
    return [problem.at(locations) for problem in problems]


def _in_file(mistake: Mistake) -> tuple[str, int]:
    return mistake.file or "", 0 if mistake.line is None else mistake.line


def _in_one_line(models: Sequence[str]) -> dict[str, Any]:
    names = _names(models)
    deployments = {name: {"model": model} for name, model in zip(names, models, strict=True)}
    return {"deployments": deployments, "chains": {"default": {"tiers": names}}}


def _names(models: Sequence[str]) -> list[str]:
    """Short names, the provider before those that would be equal, and a number after those that still are."""
    whole = [with_slash(model) for model in models]
    short = [model.rpartition("/")[2] or model for model in whole]
    clear = [name if short.count(name) == 1 else model for name, model in zip(short, whole, strict=True)]
    return [
        name if clear[:index].count(name) == 0 else f"{name}#{clear[: index + 1].count(name)}"
        for index, name in enumerate(clear)
    ]


def overlaid(base: Document, over: Document) -> Document:
    """One document laid over another; each value keeps the place of the document it came from."""
    shared = {path: base.locations[path] for path in _shared(base.data, over.data, ()) if path in base.locations}
    locations = {**base.locations, **over.locations, **shared}
    return Document(merged(base.data, over.data), locations, notes=(*base.notes, *over.notes))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid over it. A null removes what `base` has; where it has nothing, null stays."""
    result = dict(base)
    for key, value in over.items():
        if value is None and key in result:
            del result[key]
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _shared(base: Any, over: Any, path: Path) -> Iterator[Path]:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        yield path
        for key in base.keys() & over.keys():
            yield from _shared(base[key], over[key], (*path, key))
