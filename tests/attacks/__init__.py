"""Attacks, a module for each kind, on what a caller is promised: docs/reliability.md says how many inputs are tried."""
