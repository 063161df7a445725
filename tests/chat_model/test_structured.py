"""The form of replies: what is of it and what only looks so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import PydanticToolsParser
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from llm_fallback.chat_model.conversion import to_message
from llm_fallback.chat_model.structured import OutputFormat
from llm_fallback.engine.transport import PartialReply, Reply, ToolCallPart


class Note(BaseModel):
    """Something written down."""

    text: str = ""
    tags: list[str] = []


# A fence inside a text would be one to LangChain's parser too.
TEXT = st.text(st.characters(exclude_characters="`"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)


def called(arguments: str, finish: str = "tool_calls") -> AIMessage:
    """A reply that calls the schema's tool."""
    return to_message(PartialReply(Reply(None, tool_calls=[ToolCallPart(0, "1", "Note", arguments)], finish=finish)))


@given(JSON)
def test_every_json_document_is_json_with_and_without_a_fence(value):
    """And is read as what it says."""
    text = json.dumps(value)
    for shown in (text, f"```json\n{text}\n```", f"Here you are:\n```\n{text}\n```\n"):
        assert OutputFormat(JsonOutputParser()).validate(AIMessage(shown)) is True


@given(st.lists(JSON, min_size=1) | st.dictionaries(TEXT, JSON, min_size=1), st.data())
def test_no_document_that_breaks_off_is_json(value, data):
    """Wherever it does; LangChain's own parser reads most of them, completed by guesswork."""
    text = json.dumps(value)
    end = data.draw(st.integers(1, len(text) - 1))
    assert OutputFormat(JsonOutputParser()).validate(AIMessage(text[:end])) is not True


@pytest.mark.parametrize(
    "text", ['{"text": "half of', '{"text": "a", "tags": ["b"', '```json\n{"text": "a"', '{"tags": 5}']
)
def test_half_a_model_is_none_though_its_fields_have_defaults(text):
    """Nor is a whole document that does not validate."""
    assert OutputFormat(PydanticOutputParser(pydantic_object=Note)).validate(AIMessage(text)) is not True


@pytest.mark.parametrize("arguments", ['{"text": "half of', '{"text": "a", "tags": ["b"', "[1]", "5", '{"tags": 5}'])
def test_half_a_tool_call_is_no_call(arguments):
    """LangChain's chunks complete its arguments; a message made of what came does not."""
    form = OutputFormat(PydanticToolsParser(tools=[Note], first_tool_only=True), {"schema": {}})
    assert form.validate(called(arguments)) is not True


@pytest.mark.parametrize("arguments", ["", "{}", '{"text": "a"}', '{"text": "line\nbreak"}'])
def test_a_whole_tool_call_is_one(arguments):
    """Also without arguments, and with line breaks that JSON forbids and models write."""
    form = OutputFormat(PydanticToolsParser(tools=[Note], first_tool_only=True), {"schema": {}})
    assert form.validate(called(arguments)) is True


@pytest.mark.parametrize(
    ("arguments", "is_one"), [("", False), ('{"text"', False), ("{}", True), ('{"text": "a"}', True)]
)
@pytest.mark.parametrize("finish", ["length", "model_context_window_exceeded"])
def test_a_call_in_a_reply_that_broke_off_is_one_if_it_was_over_by_then(arguments, is_one, finish):
    """Without a word of its arguments it was not, though the schema would do without any."""
    form = OutputFormat(PydanticToolsParser(tools=[Note], first_tool_only=True), {"schema": {}})
    assert (form.validate(called(arguments, finish=finish)) is True) == is_one


@pytest.mark.parametrize(("text", "is_one"), [("12", False), ("1.5", False), ("true", True), ("[12]", True)])
@pytest.mark.parametrize("finish", ["length", "model_context_window_exceeded"])
def test_a_number_that_may_have_broken_off_is_none(text, is_one, finish):
    """12 may be the beginning of 123; what has an end shows it."""
    message = to_message(PartialReply(Reply(None, text=text, finish=finish)))
    assert (OutputFormat(JsonOutputParser()).validate(message) is True) == is_one
    assert OutputFormat(JsonOutputParser()).validate(AIMessage(text)) is True


def test_a_parser_that_lacks_a_module_is_no_reply_s_fault():
    """Nobody else need be asked; the error names what to install."""

    def parse(message):
        raise ImportError("please install defusedxml")

    with pytest.raises(ImportError, match="defusedxml"):
        OutputFormat(RunnableLambda(parse)).validate(AIMessage("<a/>"))


def test_calls_that_do_not_parse_are_invalid_ones_of_the_message():
    """With what was said, beside those that do."""
    parts = {0: ToolCallPart(0, "1", "Note", '{"text": "ha'), 1: ToolCallPart(1, "2", "Note", '{"text": "b"}')}
    message = to_message(PartialReply(Reply(None, tool_calls=list(parts.values()))))
    assert [(call["id"], call["args"]) for call in message.tool_calls] == [("2", {"text": "b"})]
    assert [(call["id"], call["args"]) for call in message.invalid_tool_calls] == [("1", '{"text": "ha')]


@pytest.mark.parametrize("trace_format", [None, {"schema": {}}])
def test_a_reply_without_the_tools_call_says_so(trace_format):
    """The model chose to talk instead; whoever asks for the first call has no use for that."""
    form = OutputFormat(PydanticToolsParser(tools=[Note], first_tool_only=True), trace_format)
    assert form.validate(AIMessage("I would rather not.")) == "the reply has no call of the schema's tool"


def test_of_all_calls_there_may_be_none():
    """Whoever asks for a list is given one."""
    assert OutputFormat(PydanticToolsParser(tools=[Note])).validate(AIMessage("I would rather not.")) is True


def test_null_is_no_object_of_a_schema():
    """Though it is JSON."""
    form = OutputFormat(JsonOutputParser(), {"schema": {"function": {"parameters": {}}}})
    assert form.validate(AIMessage("null")) == "the reply is JSON, but no object"


@pytest.mark.parametrize(
    "function", [{}, *({"parameters": odd} for odd in (None, [], {"required": 5}, {"required": [[1]]}))]
)
def test_a_schema_that_names_no_key_lacks_none(function):
    """A function may have no parameters; of a schema that is none a server has to say so."""
    form = OutputFormat(JsonOutputParser(), {"schema": {"function": {"name": "Note", **function}}})
    assert form.validate(AIMessage('{"text": "a"}')) is True


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ('{"name": "Ada", "age": "unknown to me"}', "the reply does not parse: age: input should be a valid integer"),
        ('{"age": 36}', "the reply does not parse: name: field required"),
        ("Ada, 36", "the reply does not parse: JSONDecodeError"),
    ],
)
def test_what_is_wrong_with_a_reply_names_the_field(reply, told):
    """And not a word of the reply, which goes into logs and traces."""
    verdict = OutputFormat(PydanticOutputParser(pydantic_object=Person)).validate(AIMessage(reply))
    assert str(verdict).startswith(told)
    assert "unknown to me" not in str(verdict)


def test_of_many_wrong_fields_the_first_ones_are_named():
    """Nobody reads hundreds."""
    parser = PydanticToolsParser(tools=[Note], first_tool_only=True)
    verdict = OutputFormat(parser).validate(called(json.dumps({"tags": list(range(9))})))
    assert str(verdict).endswith("tags.4: input should be a valid string, and 4 more")
