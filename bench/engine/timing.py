"""Times several contenders in turn, so that they share the noise of the machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["LEAST", "SLOW", "Contender", "Spread", "Times", "measure"]

LEAST = 3
"""Number of rounds that are counted however long they take, if as many are requested."""

SLOW = 5.0
"""Seconds from which the first round is also counted."""

Step = Callable[[Tensor], object]


@dataclass(frozen=True)
class Contender:
    """A function of an image that is timed.

    Attributes:
        run: The timed part.
        before: The part that precedes it with the same image, and is not timed.
    """

    run: Step
    before: Step | None = None


@dataclass(frozen=True)
class Spread:
    """The median and the ends of some numbers."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """The spread of at least one number."""
        return cls(statistics.median(numbers), min(numbers), max(numbers))


@dataclass
class Times:
    """Seconds by contender, one number per round, and the reasons why some could not run.

    Attributes:
        seconds: By name.
        failures: By name, for the contenders that raised an exception.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def spread(self, name: str) -> Spread | None:
        """Seconds of a contender; None if it did not run."""
        found = self.seconds.get(name)
        return Spread.of(found) if found else None

    def best(self, names: Sequence[str]) -> str | None:
        """The contender with the smallest median, of those that ran."""
        ran = [name for name in names if self.seconds.get(name)]
        return min(ran, key=lambda name: statistics.median(self.seconds[name]), default=None)

    def ratio(self, name: str, base: str | None) -> Spread | None:
        """The ratio of two contenders' seconds, by round; None if one of them did not run."""
        over = self.seconds.get(base) if base is not None else None
        found = self.seconds.get(name)
        if not found or not over:
            return None
        return Spread.of([one / other for one, other in zip(found, over, strict=True)])


def measure(
    contenders: Mapping[str, Contender],
    image: Callable[[int], Tensor],
    rounds: int,
    *,
    seconds: float = math.inf,
    into: Times | None = None,
) -> Times:
    """Times contenders in turn.

    Every round has an image of its own, which no contender has processed before, and begins with
    another contender. A first round is not counted unless it is slow, in which case one-time costs
    do not matter.

    Args:
        contenders: By name.
        image: Returns the image of a round, from its number.
        rounds: Maximum number of counted rounds.
        seconds: Time after which at least ``LEAST`` rounds are counted and no more.
        into: Filled with complete rounds, also if this is interrupted; None for new times.

    Returns:
        The times; a contender that raises an exception is omitted from then on.
    """
    times = Times() if into is None else into
    times.seconds = {name: [] for name in contenders}
    start = time.perf_counter()
    try:
        for number in range(rounds + 1):
            names = [name for name in contenders if name not in times.failures]
            turn = number % max(len(names), 1)
            taken: dict[str, float] = {}
            for name in names[turn:] + names[:turn]:
                found = _timed(contenders[name], image(number), name, times.failures)
                if found is not None:
                    taken[name] = found
            if number or sum(taken.values()) > SLOW:
                for name, found in taken.items():
                    times.seconds[name].append(found)
            counted = max((len(each) for each in times.seconds.values()), default=0)
            late = time.perf_counter() - start > seconds
            if counted >= rounds or (late and counted >= LEAST):
                break
    finally:
        for name in times.failures:
            times.seconds.pop(name, None)
    return times


def _timed(
    contender: Contender, image: Tensor, name: str, failures: dict[str, str]
) -> float | None:
    try:
        if contender.before is not None:
            contender.before(image)
        start = time.perf_counter()
        contender.run(image)
        return time.perf_counter() - start
    except Exception as error:  # noqa: BLE001 - whatever another library raises on a network
        failures[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        return None
