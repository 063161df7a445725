"""LangChain's side of OpenAI's chat protocol: how ChatLiteLLM writes requests, without litellm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import Field

from llm_fallback.chat_model.conversion import PROVIDER, unwritable
from llm_fallback.chat_model.foreign_messages import carried, mark
from llm_fallback.chat_model.history import with_invalid_calls
from llm_fallback.engine.encoding import why_not_json


class OpenAIChat(BaseChatModel):
    """A chat model that writes its requests in OpenAI's protocol; subclasses send them."""

    model: str
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    n: int | None = None
    max_tokens: int | None = None
    num_ctx: int | None = None
    streaming: bool = False
    stream_options: dict[str, Any] | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)

    def _merged(self, defaults: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {**defaults, **kwargs}

    def _openai_request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The request for a whole reply."""
        parameters = self._merged({**self._default_params, "stop": stop}, kwargs)
        return {
            **{name: value for name, value in parameters.items() if value is not None},
            "messages": messages_of(messages),
            "stream": False,
        }

    @property
    def _default_params(self) -> dict[str, Any]:
        params = {
            "model": self.model,
            "stream": self.streaming,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "n": self.n,
            "max_tokens": self.max_tokens,
            "num_ctx": self.num_ctx,
        }
        return {**params, **self.model_kwargs}

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {name: value for name, value in self._default_params.items() if value is not None}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools. `tool_choice`: a tool's name, "auto", "none", "any" or True for at least one."""
        documents = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=documents, tool_choice=_tool_choice(tool_choice, documents), **kwargs)

    def with_structured_output(
        self,
        schema: Any,
        *,
        method: Any = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The model with replies that fit a schema. `method`: `json_schema`, `function_calling` or `json_mode`."""
        assert not include_raw, "the model over a chain sees to it"
        if method == "function_calling":
            return super().with_structured_output(schema, **kwargs)
        if kwargs or method not in ("json_schema", "json_mode"):
            raise ValueError(f"with_structured_output takes no {kwargs or method!r}")
        is_model = isinstance(schema, type) and is_basemodel_subclass(schema)
        parser: Runnable[Any, Any] = PydanticOutputParser(pydantic_object=schema) if is_model else JsonOutputParser()
        model = self.bind(response_format=_response_format(schema, method, strict is not False))
        return model | parser


def messages_of(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as ChatLiteLLM sends them: without names, with the reasoning that came before."""
    foreign = carried(messages)
    if foreign is not None:
        messages = [each.message for each in foreign]
    try:
        sent = convert_to_openai_messages(messages)
    except Exception as error:  # noqa: BLE001 - what they are not, LangChain finds out by whatever breaks
        return unwritable(messages, error)
    asked = [{"content": message.content} for message in messages if not isinstance(message, AIMessage)]
    if why_not_json({"messages": asked}) is not None:  # In a field of a part that is none of OpenAI's.
        return unwritable(messages, ValueError())
    for message, document in zip(messages, sent, strict=True):
        document.pop("name", None)
        if "reasoning_content" in message.additional_kwargs:
            document["reasoning_content"] = message.additional_kwargs["reasoning_content"]
    written = with_invalid_calls(messages, sent)
    return written if foreign is None else mark(written, foreign)


def _tool_choice(choice: str | bool | dict[str, Any] | None, tools: list[dict[str, Any]]) -> Any:
    """`tool_choice` as OpenAI spells it; ValueError for a tool that is not among the tools."""
    if choice is True or choice == "any":
        return "required"
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        choice = {"type": "function", "function": {"name": choice}}
    if isinstance(choice, dict) and "function" in choice:
        names = [tool["function"].get("name") for tool in tools if "function" in tool]
        named = choice["function"].get("name") if isinstance(choice["function"], dict) else None
        if named not in names:
            raise ValueError(f"tool_choice names {named!r}; the tools are {names}")
    return choice


def _response_format(schema: Any, method: str, strict: bool) -> dict[str, Any]:
    if method == "json_mode":
        return {"type": "json_object"}
    function = convert_to_openai_tool(schema)["function"]
    name = getattr(schema, "__name__", function["name"])
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": _without_further_properties(function["parameters"]), "strict": strict},
    }


def _without_further_properties(schema: Any) -> Any:
    """The schema with `additionalProperties: false` in each of its objects."""
    if isinstance(schema, list):
        return [_without_further_properties(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _without_further_properties(value) for key, value in schema.items()}
    return {**strict, "additionalProperties": False} if schema.get("type") == "object" else strict
