"""Tools and structured output work through the fallbacks, whoever answers.

Prints:

    get_weather {'city': 'Paris'}
    name='Ada' age=36
"""

from langchain_core.tools import tool
from pydantic import BaseModel

from llm_fallback import build_chat_model
from llm_fallback.testing import Fail, FakeServer, Reply


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


call = Reply(tool_calls=[{"name": "get_weather", "args": {"city": "Paris"}}])
person = Reply(tool_calls=[{"name": "Person", "args": {"name": "Ada", "age": 36}}])

with (
    FakeServer({"primary": Fail(503), "backup": [call, person]}) as server,
    build_chat_model(server.spec()) as model,
):
    for wanted in model.bind_tools([get_weather]).invoke("What is the weather in Paris?").tool_calls:
        print(wanted["name"], wanted["args"])
    print(model.with_structured_output(Person, method="function_calling").invoke("Ada is 36 years old."))
