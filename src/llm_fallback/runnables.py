"""LCEL, declared: a prompt, a chain and the form of its answer as one Runnable.

The form is a promise of the chain: a reply that does not parse or validate is a failure like any other, and the next
deployment is asked with the same request.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from langchain_core.output_parsers import (
    BaseGenerationOutputParser,
    BaseOutputParser,
    JsonOutputParser,
    StrOutputParser,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableBinding, RunnableSequence
from langchain_core.utils.pydantic import is_basemodel_subclass
from typing_extensions import is_typeddict

from llm_fallback.chain_model import ChainChatModel
from llm_fallback.errors import Mistake, SpecError
from llm_fallback.imports import imported
from llm_fallback.overrides import read
from llm_fallback.spec import Spec
from llm_fallback.spec.marks import Problem
from llm_fallback.structured import Structured

_Steps = list[Runnable[Any, Any]]
_PARSERS = (BaseOutputParser, BaseGenerationOutputParser)


def build_runnables(source: Any) -> dict[str, Runnable[Any, Any]]:
    """What a spec declares under `runnables`, by name. All share one model, and with it breakers, limits and budgets.

    `source` is what `build_chat_model` takes, or a model it made: then that is the one they share, with its listeners
    and parameters, and closing it closes them.

    Raises SpecError for a wrong spec, an unset variable, or an `output` that cannot be imported or is no form.
    """
    model = source if isinstance(source, ChainChatModel) else None
    spec = model.lease.spec if model else read(source)
    outputs = _outputs(spec)
    model = model or _built(spec)
    return {
        name: _joined(own.prompt, model.with_chain(own.chain or model.chain), outputs[name], name)
        for name, own in spec.runnables.items()
    }


def fallback_chain(prompt: Any, model: Runnable[Any, Any], output: Any = "text") -> Runnable[Any, Any]:
    """A prompt, a model and the form of its answer as one Runnable.

    `prompt` is a template such as "Summarise: {text}" or a prompt of LangChain's. `model` is of `build_chat_model`,
    also with `bind`, `bind_tools` or `with_config` applied. `output` is "text"; "json"; a pydantic model, TypedDict or
    JSON schema, as `with_structured_output` takes them; or an output parser of LangChain's.

    A reply that `output` cannot read is `rejected`, and the next deployment is asked with the same request; so it is
    held until it is whole, also when streamed. Text is streamed as it comes.
    """
    return _joined(prompt, model, output)


def _built(spec: Spec) -> ChainChatModel:
    # Here and not above, because it loads litellm, and over a fake nobody needs that.
    from llm_fallback.build import build_chat_model

    return build_chat_model(spec)


def _joined(prompt: Any, model: Runnable[Any, Any], output: Any, name: str | None = None) -> Runnable[Any, Any]:
    return RunnableSequence(_prompt(prompt), *_answering(model, output), name=name)


def _prompt(prompt: Any) -> Runnable[Any, Any]:
    if isinstance(prompt, str):
        return ChatPromptTemplate.from_template(prompt)
    if isinstance(prompt, Runnable):
        return prompt
    raise TypeError(f"a prompt is a template text or a prompt of LangChain's, not {type(prompt).__name__}")


def _answering(model: Runnable[Any, Any], output: Any) -> _Steps:
    """The model held to a form, and what reads its replies."""
    if isinstance(model, RunnableBinding):
        inner, *readers = _answering(model.bound, output)
        return [model.model_copy(update={"bound": inner}), *readers]
    if not isinstance(model, ChainChatModel):
        raise TypeError(f"{type(model).__name__} cannot fall back on a reply: use a model of build_chat_model")
    if isinstance(output, str):
        output = _parser_called(output)
    if isinstance(output, StrOutputParser):
        return [model, output]
    if isinstance(output, _PARSERS):
        return [model.model_copy(update={"structured": Structured(output)}), output]
    if not _is_schema(output):
        raise TypeError(f"an output is 'text', 'json', a schema or an output parser, not {output!r}")
    sequence = model.with_structured_output(output)
    assert isinstance(sequence, RunnableSequence)
    return sequence.steps


def _parser_called(word: str) -> BaseOutputParser[Any]:
    match word:
        case "text":
            return StrOutputParser()
        case "json":
            return JsonOutputParser()
    near = get_close_matches(word, ("text", "json"), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"an output in one word is 'text' or 'json', not {word!r}{hint}")


def _is_schema(output: Any) -> bool:
    return isinstance(output, Mapping) or is_typeddict(output) or is_basemodel_subclass(output)


def _outputs(spec: Spec) -> dict[str, Any]:
    """The output of each runnable, imported where it is an import path."""
    mistakes: list[Mistake] = []
    found = {name: _imported(spec, name, own.output, mistakes) for name, own in spec.runnables.items()}
    if mistakes:
        raise SpecError(mistakes)
    return found


def _imported(spec: Spec, name: str, output: str, mistakes: list[Mistake]) -> Any:
    if ":" not in output:
        return output
    try:
        form = imported(output)
    except (ImportError, AttributeError) as error:
        text, remedy = f"cannot be imported ({error})", "name it as 'package.module:Model'"
    else:
        if _is_schema(form) or isinstance(form, _PARSERS):
            return form
        text, remedy = "is no form a reply could have", "name a pydantic model, a TypedDict or an output parser"
    problem = Problem(("runnables", name, "output"), f"{output!r} {text}", remedy)
    mistakes.append(problem.at(spec.places))
    return None
