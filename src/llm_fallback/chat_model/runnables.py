"""LCEL, declared: a prompt, a chain and the form of its answer as one Runnable.

The form is a promise of the chain: a reply that does not parse or validate is a failure like any other, and the next
deployment is asked with the same request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Self

from langchain_core.output_parsers import (
    BaseGenerationOutputParser,
    BaseOutputParser,
    JsonOutputParser,
    StrOutputParser,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.utils.pydantic import is_basemodel_subclass
from typing_extensions import is_typeddict

from llm_fallback._imports import imported
from llm_fallback.chat_model.base import ChainChatModel
from llm_fallback.chat_model.structured import OutputFormat
from llm_fallback.errors import Mistake, SpecError, did_you_mean
from llm_fallback.spec import Spec
from llm_fallback.spec.locations import Problem
from llm_fallback.spec.overrides import read_spec

_Steps = list[Runnable[Any, Any]]
_PARSERS = (BaseOutputParser, BaseGenerationOutputParser)


class FallbackSequence(RunnableSequence[Any, Any]):
    """A prompt, a model and what reads its replies. What a call says beside its input is said to the model: of the
    prompt, to which LangChain would say it, nobody wants anything."""

    def with_chain(self, chain: str) -> Self:
        """The same with its model on another chain of the spec."""
        return self._over(_on_chain(self.middle[0], chain))

    def _over(self, model: Runnable[Any, Any]) -> Self:
        return self.model_copy(update={"middle": [model, *self.middle[1:]]})

    def _bound(self, kwargs: Mapping[str, Any]) -> Self:
        return self._over(self.middle[0].bind(**kwargs)) if kwargs else self

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return super(FallbackSequence, self._bound(kwargs)).invoke(input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return await super(FallbackSequence, self._bound(kwargs)).ainvoke(input, config)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        return super(FallbackSequence, self._bound(kwargs)).batch(inputs, config, return_exceptions=return_exceptions)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        bound = self._bound(kwargs)
        return await super(FallbackSequence, bound).abatch(inputs, config, return_exceptions=return_exceptions)

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        return super(FallbackSequence, self._bound(kwargs)).transform(input, config)

    def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        return super(FallbackSequence, self._bound(kwargs)).atransform(input, config)


class FallbackRunnable(RunnableBinding[Any, Any]):  # type: ignore[no-redef] # pydantic's plugin and a field `kwargs`
    """A FallbackSequence that stays one where it becomes a step of another sequence, which would take its steps apart
    and pass the keywords of a call to the first of them."""

    def with_chain(self, chain: str) -> Self:
        """This runnable on another chain of the same spec, with the same state. ValueError with the nearest for a name
        that is no chain."""
        on_chain: Self = _on_chain(self, chain)
        return on_chain


def declared_runnables(source: Any, build: Callable[[Spec], ChainChatModel]) -> dict[str, FallbackRunnable]:
    """What a spec declares under `runnables`, by name, over the one model that `build` makes of the spec."""
    spec = read_spec(source)
    outputs = _outputs(spec)
    model = build(spec)
    return {
        name: _joined(declared.prompt, model.with_chain(declared.chain or model.chain), outputs[name], name)
        for name, declared in spec.runnables.items()
    }


def fallback_chain(prompt: Any, model: Runnable[Any, Any], output: Any = "text") -> FallbackRunnable:
    """A prompt, a model and the form of its answer as one Runnable.

    `prompt` is a template such as "Summarise: {text}" or a prompt of LangChain's. `model` is of `build_chat_model`,
    also with `bind`, `bind_tools` or `with_config` applied. `output` is "text"; "json"; a pydantic model, TypedDict or
    JSON schema, as `with_structured_output` takes them; or an output parser of LangChain's.

    A reply that `output` cannot read is `rejected`, and the next deployment is asked with the same request; so it is
    held until it is whole, also when streamed. Text is streamed as it comes.

    What a call says beside its input goes to the model: `chain=`, `temperature=`, `stop=`, `timeout=`.
    """
    return _joined(prompt, model, output)


def _joined(prompt: Any, model: Runnable[Any, Any], output: Any, name: str | None = None) -> FallbackRunnable:
    held, *readers, last = _answering(model, output)
    sequence = FallbackSequence(first=_prompt(prompt), middle=[held, *readers], last=last, name=name)
    return FallbackRunnable(bound=sequence)


def _on_chain(runnable: Any, chain: str) -> Any:
    """A runnable on another chain, with all that is bound to it."""
    if isinstance(runnable, RunnableBindingBase):
        # But for a chain bound to it before, which would be asked in spite of this one.
        kwargs = {name: value for name, value in runnable.kwargs.items() if name not in ("chain", "model")}
        known = runnable.config.get("configurable", {})
        configurable = {name: value for name, value in known.items() if name not in ("chain", "llm_fallback_chain")}
        config = {**runnable.config, "configurable": configurable}
        return runnable.model_copy(
            update={"bound": _on_chain(runnable.bound, chain), "kwargs": kwargs, "config": config}
        )
    return runnable.with_chain(chain)


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
        return [model.model_copy(update={"structured": OutputFormat(output)}), output]
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
    hint = did_you_mean(word, ("text", "json"))
    raise ValueError(f"an output in one word is 'text' or 'json', not {word!r}" + (f"; {hint}" if hint else ""))


def _is_schema(output: Any) -> bool:
    return isinstance(output, Mapping) or is_typeddict(output) or is_basemodel_subclass(output)


def _outputs(spec: Spec) -> dict[str, Any]:
    """The output of each runnable, imported where it is an import path."""
    mistakes: list[Mistake] = []
    outputs = {name: _imported(spec, name, declared.output, mistakes) for name, declared in spec.runnables.items()}
    if mistakes:
        raise SpecError(mistakes)
    return outputs


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
    mistakes.append(problem.at(spec.locations))
    return None
