"""The tokenizer that litellm brings along, for those who count tokens before they send them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import litellm

_VARIABLE = "CUSTOM_TIKTOKEN_CACHE_DIR"
"""Where litellm has its tokenizer looked for instead of beside itself."""

_FILE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
"""tiktoken's name in a directory for `cl100k_base`, the encoding litellm counts by."""


@cache
def local_encoder() -> Callable[[str], list[int]] | None:
    """Token ids of a text by litellm's tokenizer; None if its file is not there, for then it would be fetched."""
    own = os.environ.get(_VARIABLE)
    directory = Path(own) if own else Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"
    if not (directory / _FILE).is_file():
        return None
    from litellm.litellm_core_utils.default_encoding import encoding

    return partial(encoding.encode, disallowed_special=())
