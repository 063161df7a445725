"""A spec made ready: resolved deployments and chains, what is known of models, and what follows from both."""
