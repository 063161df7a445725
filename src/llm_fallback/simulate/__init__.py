"""A chain under trouble, in simulated time: who answers, how long callers wait, what is left unanswered.

The course of every call is the engine's own; only deployments and the clock are pretended. An hour passes in a moment,
nothing is sent, and the same seed gives the same result.
"""

from llm_fallback.simulate.outcome import Outcome, Share
from llm_fallback.simulate.simulation import simulate
from llm_fallback.simulate.troubles import Trouble

__all__ = ["Outcome", "Share", "Trouble", "simulate"]
