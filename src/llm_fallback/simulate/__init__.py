"""A chain under trouble, in simulated time: who answers, how long callers wait, what is left unanswered.

The engine that makes the calls is the real one; only the deployments and the clock are simulated. An hour passes in a
moment, nothing is sent, and the same seed gives the same result.
"""

from llm_fallback.simulate.outcome import Outcome, Share
from llm_fallback.simulate.simulation import simulate
from llm_fallback.simulate.troubles import Trouble

__all__ = ["Outcome", "Share", "Trouble", "simulate"]
