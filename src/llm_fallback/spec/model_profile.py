"""What a deployment's model can do, in the words of LangChain's ModelProfile.

A copy of `langchain_core.language_models.ModelProfile`, which is slow to import; tests/spec/test_model.py holds
the two equal.
"""

from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

Text = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Tokens = Annotated[int, Field(strict=True, ge=1)]


@with_config(ConfigDict(extra="forbid"))
class Profile(TypedDict, total=False):
    """What a model takes and gives. What is not said is unknown, and tried."""

    name: Annotated[Text, Field(description="The model's name for people.")]
    status: Annotated[Text, Field(description="Its standing with its maker, as in `active` or `deprecated`.")]
    release_date: Annotated[Text, Field(description="When it was released, an ISO date.")]
    last_updated: Annotated[Text, Field(description="When it last changed, an ISO date.")]
    open_weights: Annotated[Flag, Field(description="Its weights are published.")]
    max_input_tokens: Annotated[Tokens, Field(description="Longest prompt, in tokens.")]
    max_output_tokens: Annotated[Tokens, Field(description="Longest reply, in tokens.")]
    text_inputs: Annotated[Flag, Field(description="Takes text.")]
    image_inputs: Annotated[Flag, Field(description="Takes images.")]
    image_url_inputs: Annotated[Flag, Field(description="Takes images by their address.")]
    pdf_inputs: Annotated[Flag, Field(description="Takes PDF files.")]
    audio_inputs: Annotated[Flag, Field(description="Takes audio.")]
    video_inputs: Annotated[Flag, Field(description="Takes video.")]
    image_tool_message: Annotated[Flag, Field(description="Takes images in a tool's answer.")]
    pdf_tool_message: Annotated[Flag, Field(description="Takes PDF files in a tool's answer.")]
    text_outputs: Annotated[Flag, Field(description="Gives text.")]
    image_outputs: Annotated[Flag, Field(description="Gives images.")]
    audio_outputs: Annotated[Flag, Field(description="Gives audio.")]
    video_outputs: Annotated[Flag, Field(description="Gives video.")]
    reasoning_output: Annotated[Flag, Field(description="Gives its reasoning.")]
    reasoning_effort_levels: Annotated[list[str], Field(description="Efforts it can be asked for.")]
    reasoning_effort_default: Annotated[Text, Field(description="The effort it takes unless asked.")]
    tool_calling: Annotated[Flag, Field(description="Calls tools.")]
    tool_choice: Annotated[Flag, Field(description="Can be told which tool to call.")]
    tool_call_streaming: Annotated[Flag, Field(description="Streams a tool call's arguments.")]
    structured_output: Annotated[Flag, Field(description="Keeps to a JSON schema natively.")]
    attachment: Annotated[Flag, Field(description="Takes files.")]
    temperature: Annotated[Flag, Field(description="Takes a temperature.")]
    mid_conversation_system_messages: Annotated[
        Flag, Field(description="Takes system messages after the first message.")
    ]
    mid_conversation_tools: Annotated[Flag, Field(description="Takes other tools in mid-conversation.")]
