"""Faults of responses; each is switched on with ``hub.faults.append(fault)``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tests.fakes.hub.state import Call, Reply


@dataclass
class Fault:
    """A fault in the responses to some requests.

    Attributes:
        where: A pattern that is searched for in the request's path.
        methods: The methods that it applies to.
        times: The number of times that it occurs; None for no limit.
        status: Another status instead; headers and body are then removed.
        headers: Headers that are added or replaced.
        body: Another body instead.
        delay: Seconds before the response.
        cut: Bytes of the body after which the connection is closed.
        pace: Bytes of the body per second.
        flip: Whether one byte in the middle of the body is changed.
    """

    where: str = ""
    methods: tuple[str, ...] = ("GET", "HEAD")
    times: int | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    cut: int | None = None
    pace: float | None = None
    flip: bool = False

    def __call__(self, call: Call, reply: Reply) -> Reply:
        """The response with the fault."""
        if call.method not in self.methods or not re.search(self.where, call.path):
            return reply
        if self.times is not None:
            if self.times == 0:
                return reply
            self.times -= 1
        if self.status is not None:
            reply = Reply(self.status)
        body = reply.body if self.body is None else self.body
        if self.flip:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        return replace(
            reply,
            headers={**reply.headers, **self.headers},
            body=body,
            delay=self.delay,
            cut=self.cut,
            pace=self.pace,
        )
