"""A prompt and a model the textbook's way, `LLMChain`, and the same prompt in LCEL; the first server is down.

`LLMChain` is in langchain-classic (`pip install langchain-classic`) and deprecated; code that has it can keep it.

Prints:

    Bonne nuit.
    Bonne nuit.
"""

import warnings

from langchain_classic.chains import LLMChain
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from llm_fallback import build_chat_model
from llm_fallback.testing import Fail, FakeServer

prompt = PromptTemplate.from_template("Translate to French: {text}")

with (
    FakeServer({"primary": Fail(503), "backup": "Bonne nuit."}) as server,
    build_chat_model(server.spec(), temperature=0) as model,
    warnings.catch_warnings(action="ignore"),
):
    textbook = LLMChain(llm=model, prompt=prompt)
    print(textbook.invoke({"text": "Good night."})["text"])

    chain = prompt | model | StrOutputParser()
    print(chain.invoke({"text": "Good night."}))
