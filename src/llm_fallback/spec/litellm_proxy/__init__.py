"""Reads the configuration of a LiteLLM proxy as a spec, and writes one from a spec. litellm itself is not imported.

`words.py` maps LiteLLM's keys to ours. Reading starts in `read.py`: `read_rows.py` turns rows of `model_list` into
deployments, `read_deployments.py` names and groups them, `read_chains.py` and `fallbacks.py` build the chains. Writing
starts in `write.py`. Everything that cannot be carried over is collected in a `LossReport` and shown to the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_config(data: Mapping[str, Any]) -> bool:
    """Whether the data is a proxy's configuration rather than a spec."""
    return "model_list" in data and "deployments" not in data
