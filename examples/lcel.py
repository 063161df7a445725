"""The model as a part of an LCEL chain: called once, in a batch, and as a stream, with the primary down.

Prints:

    Bonne nuit.
    ['Bonne nuit.', 'Bonne nuit.', 'Bonne nuit.']
    Bonne| nuit.
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from llm_fallback import build_chat_model
from llm_fallback.testing import Fail, FakeServer

prompt = ChatPromptTemplate.from_template("Translate to French: {text}")

with (
    FakeServer({"primary": Fail(500), "backup": "Bonne nuit."}) as server,
    build_chat_model(server.spec(), temperature=0) as model,
):
    chain = prompt | model | StrOutputParser()
    print(chain.invoke({"text": "Good night."}))
    print(chain.batch([{"text": "Good night."}] * 3))
    print("|".join(piece for piece in chain.stream({"text": "Good night."}) if piece))
