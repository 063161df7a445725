"""A spec resolved into deployments and chains, with what is known of their models, and what follows from both."""
