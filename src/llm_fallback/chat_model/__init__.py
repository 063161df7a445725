"""The LangChain chat model over a chain, whoever carries its requests."""
