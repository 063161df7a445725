"""The configuration of a LiteLLM proxy, read as a spec and written from one. litellm itself is not imported.

`words.py` is the dictionary both ways. Reading: `rows.py` makes deployments of `model_list`, `settings.py` defaults of
the settings, `routes.py` chains of groups and fallbacks. Whatever has no place is listed, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_config(data: Mapping[str, Any]) -> bool:
    """Whether data is the configuration of a proxy, and no spec."""
    return "model_list" in data and "deployments" not in data
