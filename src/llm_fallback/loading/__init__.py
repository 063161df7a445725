"""Files and mappings in, one Spec out."""

from llm_fallback.loading.sources import Source, load_spec, spec_of_models

__all__ = ["Source", "load_spec", "spec_of_models"]
