"""Two replicas of the chains: `serve run replicas:app`."""

import os

from llm_fallback.serving.ray import deployment

files = os.environ["LLM_FALLBACK_SPEC"].split(os.pathsep)
app = deployment(files).options(num_replicas=2).bind()
