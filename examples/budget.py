"""A budget for a run: an agent that would go on for ever ends when its money has.

Prints:

    asked 5 times
    budget of $0.003 for BudgetCallbackHandler, per run would be exceeded
    spent: $0.0026
"""

from langchain.agents import create_agent

from llm_fallback import BudgetCallbackHandler, BudgetExceeded, build_chat_model
from llm_fallback.testing import FakeServer, Reply

PRICED = {"price": {"input_per_million": 2, "output_per_million": 10}}


def search(query: str) -> str:
    """Search the web."""
    return "nothing found"


again = Reply(tool_calls=[{"name": "search", "args": {"query": "perpetual motion"}}], usage=(10, 50))
budget = BudgetCallbackHandler(0.003, window="run")

with (
    FakeServer({"a": again}) as server,
    build_chat_model(server.spec(deployments={"a": PRICED}), max_tokens=50) as model,
):
    agent = create_agent(model, [search])
    try:
        agent.invoke({"messages": [("user", "Find it.")]}, {"callbacks": [budget]})
    except BudgetExceeded as error:
        print(f"asked {len(server.received())} times")
        print(str(error).partition(":")[0])
    print(f"spent: ${budget.snapshot()['spent_usd']:.4f}")
