"""A server on loopback with the part of the Hub's protocol that its real clients use.

``state`` is the content of the hub, ``server`` runs it; each other module handles one kind of
request and is listed in ``server.ROUTES``.
"""

from tests.fakes.hub.server import serve
from tests.fakes.hub.state import Call, FakeHub, Reply, Route

__all__ = ["Call", "FakeHub", "Reply", "Route", "serve"]
