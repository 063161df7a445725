"""The configuration of a LiteLLM proxy, read as a spec and written from one. litellm itself is not imported.

`words.py` is the dictionary both ways. Reading: `rows.py` makes deployments of `model_list`, `settings.py` defaults of
the settings, `routes.py` chains of groups and fallbacks. Whatever has no place is listed, never dropped in silence.
"""
