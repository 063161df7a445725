"""Words of a call, and what is read of its outcome: each line that ends so is the one to be told of."""

from llm_fallback import BudgetCallbackHandler, CallMetadata, CostCallbackHandler, build_chat_model

model = build_chat_model("llm-fallback.yaml")
facts: CallMetadata = model.invoke("hi").response_metadata["llm_fallback"]

model.invoke("hi", timeout="soon")  # wrong
model.invoke("hi", chain=2)  # wrong
model.stream("hi", max_retries="two")  # wrong
model.batch(["hi"], chain=["cheap"])  # wrong
model.state()["own"]["brekaer"]  # wrong
model.state()["fleet"]["breaker"]  # wrong
model.state()["own"]["members"]  # wrong
model.explain()["max_request"]  # wrong
model.ping()["own"]["remedies"]  # wrong
facts["deploymnet"]  # wrong
facts["attempts"][0]["latency"]  # wrong
print(model.state()["own"]["breaker"] == "opened")  # wrong
print(facts["attempts"][0]["failure"] == "throttled")  # wrong
print(facts["cost_usd"] + 1)  # wrong
BudgetCallbackHandler(1, window="week")  # wrong
CostCallbackHandler().snapshot()["total"]  # wrong
