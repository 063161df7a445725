"""The configuration of a LiteLLM proxy, read as a spec and written from one. litellm itself is not imported.

`words.py` is the dictionary both ways. Reading: `rows.py` makes deployments of `model_list`, `settings.py` defaults of
the settings, `routes.py` chains of groups and fallbacks. Whatever has no place is listed, never dropped in silence.
"""

from llm_fallback.litellm_config.reading import Reading, is_config, read_config
from llm_fallback.litellm_config.writing import write_config

__all__ = ["Reading", "is_config", "read_config", "write_config"]
