"""How a fake answers when nothing is scripted."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import PydanticOutputParser
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from pydantic import BaseModel, Field

from llm_fallback.testing import FakeServer, Reply
from llm_fallback.testing.answers import Answer, answer, answer_as, tokens, words
from llm_fallback.testing.answers.hints import TextHints
from llm_fallback.testing.answers.schema import fill, sample

Document = dict[str, Any]

WEATHER: Document = {
    "name": "get_weather",
    "description": "Get the weather at a location.",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string"},
            "unit": {"enum": ["celsius", "fahrenheit"], "default": "celsius"},
        },
        "required": ["location"],
    },
}
MAGIC: Document = {
    "name": "magic_function",
    "parameters": {
        "type": "object",
        "properties": {"input": {"type": "integer", "exclusiveMinimum": -1000, "exclusiveMaximum": 1000}},
        "required": ["input"],
    },
}
NO_ARGUMENTS: Document = {"name": "now", "parameters": {"type": "object", "properties": {}}}


class Person(BaseModel):
    name: str
    age: int | None = None


class Tree(BaseModel):
    value: int = Field(ge=10)
    kind: Literal["leaf", "branch"]
    children: list["Tree"]
    parent: "Tree | None" = None


def ask(content: Any, *tools: Document, **request: Any) -> Answer:
    request = {"messages": [{"role": "user", "content": content}], **request}
    if tools:
        request["tools"] = [{"type": "function", "function": tool} for tool in tools]
    return answer(request)


def calls(meant: Answer) -> dict[str, Any]:
    return {call.name: dict(call.args) for call in meant.tool_calls}


def schema_format(schema: Document) -> Document:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}


class TestText:
    def test_the_answer_echoes_the_prompt_and_is_always_the_same(self) -> None:
        """Tests may rely on it."""
        assert ask("what is love?") == ask("what is love?")
        assert "what is love?" in ask("what is love?").text

    def test_a_stop_sequence_ends_the_text_before_it(self) -> None:
        """One or several; the finish is `stop`."""
        assert ask("one two three", stop="two").text == "A fake answer to: one "
        assert ask("one two three", stop=["three", "one"]).text == "A fake answer to: "
        assert ask("one", stop=["x"]).finish == "stop"

    @pytest.mark.parametrize("word", ["max_tokens", "max_completion_tokens"])
    def test_a_limit_of_tokens_cuts_the_text_and_says_so(self, word: str) -> None:
        """The finish is `length` and the usage is the limit."""
        short = ask("one two three", **{word: 3})
        assert (short.finish, short.usage["completion_tokens"]) == ("length", 3)
        assert ask("one two three", **{word: 300}).finish == "stop"

    def test_images_sound_and_files_are_taken(self) -> None:
        """They are named in the answer and counted in the usage."""
        content = [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        ]
        meant = ask(content)
        assert meant.text == "A fake answer to: look [image] [audio] [file]"
        assert meant.usage["prompt_tokens"] > ask("look").usage["prompt_tokens"]

    def test_a_request_without_a_user_is_answered(self) -> None:
        """Instructions alone are a request too."""
        assert answer({"messages": [{"role": "system", "content": "be kind"}]}).text
        assert answer({"messages": []}).text

    @given(st.text())
    def test_words_joined_are_the_text(self, text: str) -> None:
        """No stream loses or adds a character."""
        assert "".join(words(text)) == text

    @given(st.text())
    def test_tokens_are_counted_without_loss(self, text: str) -> None:
        """The tokens of a text join to the text, so that a limit cuts and changes nothing."""
        assert text.startswith("".join(tokens(text)))


class TestTools:
    def test_a_tool_that_the_user_asks_for_is_called_with_what_the_text_offers(self) -> None:
        """Numbers, places and choices are taken from the prompt; a default stays unsaid."""
        assert calls(ask("What is magic_function(3)?", WEATHER, MAGIC)) == {"magic_function": {"input": 3}}
        assert calls(ask("What is the weather in San Francisco, CA?", MAGIC, WEATHER)) == {
            "get_weather": {"location": "San Francisco, CA"}
        }
        assert calls(ask("Weather in Paris in fahrenheit", WEATHER)) == {
            "get_weather": {"location": "Paris", "unit": "fahrenheit"}
        }

    def test_small_talk_calls_no_tool_unless_one_is_required(self) -> None:
        """`none` forbids, `required` and a name force."""
        named = {"type": "function", "function": {"name": "magic_function"}}
        assert not ask("Hello!", WEATHER).tool_calls
        assert not ask("What is the weather in Paris?", WEATHER, tool_choice="none").tool_calls
        assert "get_weather" in calls(ask("Hello!", WEATHER, tool_choice="required"))
        assert calls(ask("Hello!", WEATHER, MAGIC, tool_choice=named)) == {"magic_function": {"input": 1}}

    def test_a_tool_without_arguments_is_called_without(self) -> None:
        """Its arguments are the empty object."""
        assert calls(ask("What time is it now?", NO_ARGUMENTS)) == {"now": {}}

    def test_tools_named_together_are_called_together(self) -> None:
        """In the prompt's order, and one at a time where parallel calls are off."""
        text = "use get_weather for Rome and then magic_function of 5"
        assert list(calls(ask(text, MAGIC, WEATHER))) == ["get_weather", "magic_function"]
        assert list(calls(ask(text, MAGIC, WEATHER, parallel_tool_calls=False))) == ["get_weather"]

    def test_quoted_text_keeps_its_script(self) -> None:
        """A name in another alphabet arrives as it was written."""
        tool = {
            "name": "create_customer",
            "parameters": {
                "type": "object",
                "properties": {"customer_name": {"type": "string"}},
                "required": ["customer_name"],
            },
        }
        text = "Create a customer named '你好啊集团' (Hello Group)"
        assert calls(ask(text, tool)) == {"create_customer": {"customer_name": "你好啊集团"}}

    def test_after_the_results_comes_a_text_that_uses_them(self) -> None:
        """An agent's loop ends."""
        request = after_a_call("It's sunny.")
        assert answer(request).text == "According to get_weather: It's sunny."

    def test_a_required_tool_is_not_called_twice_while_another_is_left(self) -> None:
        """An agent that must end with a call of its answer's tool comes to its end."""
        request = after_a_call("It's sunny.", WEATHER, MAGIC)
        assert calls(answer({**request, "tool_choice": "required"})) == {"magic_function": {"input": 1}}


def after_a_call(result: str, *tools: Document) -> Document:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    return {
        "messages": [
            {"role": "user", "content": "What is the weather in Paris?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": result},
        ],
        "tools": [{"type": "function", "function": tool} for tool in tools or [WEATHER]],
    }


class TestSchemas:
    def test_a_requested_schema_is_filled_from_the_text(self) -> None:
        """The classic of extraction works."""
        text = ask("Erick, 27 years old", response_format=schema_format(Person.model_json_schema())).text
        assert Person.model_validate_json(text) == Person(name="Erick", age=27)

    def test_a_schema_that_contains_itself_comes_to_an_end(self) -> None:
        """References are followed as far as needed."""
        text = ask("a tree", response_format=schema_format(Tree.model_json_schema())).text
        assert Tree.model_validate_json(text).children

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "integer", "minimum": 5, "multipleOf": 4},
            {"type": "integer", "exclusiveMaximum": -3},
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
            {"type": "number", "maximum": -1.5},
            {"type": "string", "minLength": 40},
            {"type": "string", "maxLength": 3},
            {"type": "string", "pattern": "^[A-Z]{3}-\\d{2,4}(x|y)?$"},
            {"type": "string", "format": "date-time"},
            {"type": "string", "format": "email"},
            {"type": ["null", "boolean"]},
            {"const": {"a": 1}},
            {"enum": [3, 4]},
            {"anyOf": [{"type": "null"}, {"type": "integer"}]},
            {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"required": ["b"]}]},
            {"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True},
            {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2, "uniqueItems": True},
            {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True},
            {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
            {"type": "array", "maxItems": 0},
            {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
            {"type": "object", "additionalProperties": False},
            {
                "$ref": "#/$defs/n",
                "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}},
            },
            {"type": "object", "required": ["unheard_of"]},
            {"type": "object", "properties": {"gone": {"type": "null"}}, "required": ["gone"]},
            {"type": "array", "items": {"type": "object"}, "minItems": 1, "uniqueItems": True},
            {"items": {"type": "string"}},
            {
                "$ref": "#/$defs/n",
                "$defs": {
                    "n": {
                        "type": "object",
                        "properties": {"n": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
                        "required": ["n"],
                    }
                },
            },
            {},
        ],
    )
    @pytest.mark.parametrize("text", ["", "about 12 cats in Paris", "take -7.25"])
    def test_what_is_filled_is_what_the_schema_allows(self, schema: Document, text: str) -> None:
        """Whatever the text offers."""
        jsonschema.validate(fill(schema, TextHints(text)), schema)

    @given(
        st.integers(-1000, 1000),
        st.integers(0, 100),
        st.sampled_from([1, 3, 10]),
        st.sampled_from(["number", "integer"]),
    )
    def test_numbers_keep_to_their_bounds(self, low: int, width: int, step: int, kind: str) -> None:
        """Inclusive bounds and steps of any kind."""
        schema = {"type": kind, "minimum": low, "maximum": low + width + step, "multipleOf": step}
        jsonschema.validate(fill(schema, TextHints("7")), schema)

    @pytest.mark.parametrize(
        "pattern",
        [
            r"^\d{4}-\d{2}$",
            "abc",
            "[a-f0-9]+",
            r"(?:foo|bar)\.txt",
            "^[^a]$",
            r"\w+@\w+\.com",
            "a{2}b?c*",
            ".{3}",
        ],
    )
    def test_simple_patterns_have_a_sample(self, pattern: str) -> None:
        """None is the answer only to what is beyond it."""
        assert sample(pattern) is not None

    @pytest.mark.parametrize("pattern", ["(?=a)b", "[", "(", r"^(a)\1$", "a(?!b)$x"])
    def test_patterns_beyond_it_have_none(self, pattern: str) -> None:
        """It neither raises nor lies."""
        assert sample(pattern) is None

    def test_json_mode_has_the_keys_the_prompt_quotes(self) -> None:
        """Without any it has one of its own."""
        text = "Tell me a joke about cats as JSON with 'setup' and 'punchline' keys."
        mode = {"type": "json_object"}
        assert set(json.loads(ask(text, response_format=mode).text)) == {"setup", "punchline"}
        assert isinstance(json.loads(ask("anything", response_format=mode).text), dict)

    def test_format_instructions_are_followed(self) -> None:
        """A schema spelled out in the prompt is filled, its own words left out of account."""
        parser: PydanticOutputParser[Person] = PydanticOutputParser(pydantic_object=Person)
        text = ask(f"Erick, 27 years old.\n{parser.get_format_instructions()}").text
        assert parser.parse(text) == Person(name="Erick", age=27)


class TestReplies:
    def test_a_scripted_text_is_said_as_it_stands(self) -> None:
        """Limits and stops bind only what the fake makes up."""
        request = {"messages": [], "max_tokens": 1, "stop": ["hello"]}
        assert answer_as(Reply("hello world"), request).text == "hello world"

    def test_a_reply_without_a_text_is_sensible(self) -> None:
        """With the pieces and the finish it asks for."""
        meant = answer_as(Reply(None, chunks=4, finish="length"), {"messages": [{"role": "user", "content": "hi"}]})
        assert (meant.text, len(meant.pieces), meant.finish) == ("A fake answer to: hi", 4, "length")

    def test_usage_is_counted_or_as_told(self) -> None:
        """OpenAI's own object goes through untouched."""
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.1}
        assert answer_as(Reply("x", usage=usage), {"messages": []}).usage == usage
        assert answer_as(Reply("x", usage=(1, 2)), {"messages": []}).usage["total_tokens"] == 3
        assert answer_as(Reply("four"), {"messages": []}).usage["completion_tokens"] == 1


class TestLangChainsOwnSuite(ChatModelIntegrationTests):
    """LangChain's standard tests pass on a plain OpenAI client that talks to the fake."""

    api_base: str

    @pytest.fixture(scope="class", autouse=True)
    def _server(self, request: pytest.FixtureRequest) -> Iterator[None]:
        with FakeServer() as server:
            request.cls.api_base = f"{server.base('fake')}/v1"
            yield

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # The client that ChatOpenAI shares by default keeps connections of event loops that are gone.
        client = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0))
        here = {"base_url": self.api_base, "http_async_client": client}
        return {"model": "fake", "api_key": "none", "stream_usage": True, **here}

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestLangChainsOwnSuiteByFunctionCalling(TestLangChainsOwnSuite):
    """The same with structured output by a tool."""

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


def test_a_reply_that_is_handed_its_beginning_goes_on_from_it():
    """vLLM's continue_final_message: what the request has already is not said again."""
    request = {
        "messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "one tw"}],
        "continue_final_message": True,
    }
    assert answer_as(Reply("one two three", chunks=["one ", "two ", "three"]), request).pieces == ("o ", "three")
    assert answer_as(Reply("other"), request).text == "other"


@pytest.mark.parametrize("schema", [True, {"anyOf": [True]}], ids=["alone", "in a union"])
def test_a_schema_that_takes_anything_is_answered_by_null(schema):
    """Which every schema of that kind takes."""
    wanted = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    assert fill(wanted, TextHints("7")) == {"x": None}
