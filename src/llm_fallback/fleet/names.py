"""Names as they stand in the store: nobody who reads it learns a deployment, a chain, a spender or a key."""

from __future__ import annotations

import hashlib
import hmac

FORMAT = 1
"""Version of what stands in a store. Members of another version form a fleet of their own."""


class Names:
    """Names by HMAC, keyed with the fleet's secret: the same in every process that has it."""

    def __init__(self, secret: str) -> None:
        self._key = secret.encode()

    def of(self, *parts: str) -> str:
        """The name of what these parts are in clear."""
        text = "\0".join(parts).encode("utf-8", "surrogatepass")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()[:20]
