"""Connections that take what a server says before its answer in small pieces, and not for ever.

aiohttp takes in whatever has arrived, a quarter of a megabyte at a time, and makes a message of each interim response
in it: of ten thousand, while the event loop stands still and no deadline fires.
"""

from __future__ import annotations

from functools import partial
from ssl import SSLContext
from typing import cast

from aiohttp import TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

_PIECE = 16 * 1024
"""Bytes that are parsed at once."""

_MOST_WAITING = 64
"""Responses nobody has taken yet: to one request there is one, and hardly two interim ones before."""


class BoundedConnection(ResponseHandler):
    """A connection that a server loses by sending many responses at once."""

    def data_received(self, data: bytes) -> None:
        if len(data) <= _PIECE:
            super().data_received(data)
            return
        for at in range(0, len(data), _PIECE):
            super().data_received(data[at : at + _PIECE])
            if len(self) > _MOST_WAITING:
                if self.transport is not None:
                    self.transport.close()
                self.set_exception(HttpProcessingError(message="responses without end"))
                return


def bounded_connector(certificates: SSLContext | bool = True) -> TCPConnector:
    """Any number of connections to a host: the wait for one to be free would count as the server's."""
    connector, kind = TCPConnector(limit=0, ssl=certificates), cast("type[ResponseHandler]", BoundedConnection)
    connector._factory = partial(kind, loop=connector._loop)
    return connector
