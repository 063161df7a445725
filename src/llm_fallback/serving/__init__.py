"""The chains of a spec as an OpenAI-compatible endpoint: `create_app`, an ASGI application. Extra: `[serve]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_fallback._imports import lazy_exports

if TYPE_CHECKING:
    from llm_fallback.serving.app import create_app

__all__ = ["create_app"]

__getattr__, __dir__ = lazy_exports(globals(), {"llm_fallback.serving.app": ("create_app",)})
