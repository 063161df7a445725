"""What calls cost, how long they took and how they ended, counted by chain, deployment, model, tag and metadata key."""

from llm_fallback.ledger.ledger import Ledger, Snapshot, merge
from llm_fallback.ledger.tally import Summary

__all__ = ["Ledger", "Snapshot", "Summary", "merge"]
