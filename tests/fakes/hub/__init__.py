"""A server on loopback that speaks as much of the Hub's protocol as its real clients ask for.

``state`` is what the hub holds, ``server`` runs it; each other module answers one kind of request
and is listed in ``server.ROUTES``.
"""

from tests.fakes.hub.server import serve
from tests.fakes.hub.state import Call, FakeHub, Reply, Route

__all__ = ["Call", "FakeHub", "Reply", "Route", "serve"]
