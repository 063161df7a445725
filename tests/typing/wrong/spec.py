"""Keys and values that a spec does not have: each line that ends so is the one to be told of."""

from llm_fallback import SpecDict

a: SpecDict = {"deployments": {"own": {"model": "m", "backend": "vlm"}}}  # wrong
b: SpecDict = {"deployments": {"own": {"model": "m", "timeouts": {"total_s": 3}}}}  # wrong
c: SpecDict = {"deployments": {"own": {"model": "m", "weight": "two"}}}  # wrong
d: SpecDict = {"deployments": {"own": {"model": "m"}}, "chains": {"main": {"tiers": "own"}}, "default": "main"}  # wrong
e: SpecDict = {"chains": {"main": {"tiers": ["own"]}}}  # wrong
