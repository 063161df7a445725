"""Translate a sentence with whatever a spec declares.

    python app.py vllm.yaml "Good night."

The answer goes to stdout, who gave it to stderr. Servers, models and what happens when one of them fails are the
spec's: this file is the same for all of them.
"""

import sys

from langchain_core.prompts import PromptTemplate

from llm_fallback import build_chat_model

PROMPT = PromptTemplate.from_template("Translate to French, and say nothing else: {text}")


def translate(spec, text):
    """The translation, and what the call tells of itself."""
    with build_chat_model(spec, chain="assistant", temperature=0) as model:
        reply = (PROMPT | model).invoke({"text": text})
    return reply.text, reply.response_metadata["llm_fallback"]


def main(spec, text):
    translation, facts = translate(spec, text)
    print(translation)
    print(f"{facts['deployment']} ({facts['model']}), {len(facts['attempts'])} asked", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
