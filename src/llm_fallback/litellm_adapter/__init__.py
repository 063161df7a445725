"""The real world: the engine's ports filled by litellm and HTTP.

Only this package imports litellm or langchain_litellm. Nothing of litellm's gets out: its exceptions leave as faults
without traceback, cause, request or response, its invented endings are told from real ones by what came over the wire,
and its own logging is off while nobody listens to it.
"""
