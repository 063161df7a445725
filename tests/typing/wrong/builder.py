"""Arguments that nobody takes: each line that ends so is the one to be told of."""

from llm_fallback import FallbackChatModel, build_chat_model
from llm_fallback.testing import fake_chat_model

SPEC = "llm-fallback.yaml"

build_chat_model(SPEC, temprature=0)  # wrong
build_chat_model(SPEC, api_key="sk-none")  # wrong
build_chat_model(SPEC, temperature="hot")  # wrong
build_chat_model(SPEC, timeouts={"total": 5})  # wrong
build_chat_model(SPEC, retries=1)  # wrong
build_chat_model(SPEC, on_stream_break="stop")  # wrong
build_chat_model(SPEC, breaker={"failures": 2})  # wrong
build_chat_model(SPEC, listeners=print)  # wrong
build_chat_model(42)  # wrong
FallbackChatModel(spec=SPEC, openai_api_key="sk-none")  # wrong
FallbackChatModel(spec=SPEC, max_retries="two")  # wrong
fake_chat_model({}, seeed=1)  # wrong
