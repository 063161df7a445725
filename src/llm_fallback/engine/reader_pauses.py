"""How long the reader of a stream kept it waiting, and whose time that was."""

from __future__ import annotations

_ALREADY_BUFFERED_SHARE = 0.1
"""If the next chunk arrives within this share of the time the reader was away, it was already buffered, and that time
is not billed to the deployment. Otherwise the deployment was still generating, and its GPU cost money."""


class ReaderPauses:
    """The pauses between a chunk that was delivered and the reader's coming back for the next."""

    # On the class, because a plain call has none, and should not have to make them.
    away_since: float | None = None
    """Since when the reader has a chunk; None: it wants the next."""
    unjudged_s = 0.0
    """Seconds that a reader who is back held its chunks: whose time it was shows when the next comes. What else went
    by was spent on the way to it and back."""
    unbilled_s = 0.0
    """Seconds in which only the reader kept the stream from going on."""

    def chunk_arrived(self, waited_s: float) -> None:
        """The next chunk is there, so many seconds after it was asked for."""
        if waited_s < _ALREADY_BUFFERED_SHARE * self.unjudged_s:
            self.unbilled_s += self.unjudged_s
        self.unjudged_s = 0.0

    def reader_gone(self, now: float) -> None:
        """The reader will not come back: what it has been away is its own time."""
        if self.away_since is not None:
            self.unbilled_s += self.unjudged_s + now - self.away_since
