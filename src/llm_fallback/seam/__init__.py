"""litellm, and all we know of it.

Nothing outside this package imports litellm (but for `chat.py`, which is a ChatLiteLLMRouter), and nothing of
litellm's gets out: its exceptions leave as faults without traceback, cause, request or response, its invented endings
are told from real ones by what came over the wire, and its own logging is off while nobody listens to it.
"""
