"""Takes the time of several ways of doing something, in turn, so that they share the noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Contender", "Spread", "Times", "measure"]

Step = Callable[[Tensor], object]


@dataclass(frozen=True)
class Contender:
    """A way of doing something with an image.

    Attributes:
        run: What is timed.
        before: What comes before it with the same image, and is not timed.
    """

    run: Step
    before: Step | None = None


@dataclass(frozen=True)
class Spread:
    """The middle and the ends of some numbers."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """That of at least one number."""
        return cls(statistics.median(numbers), min(numbers), max(numbers))


@dataclass
class Times:
    """Seconds by contender, one number per round, and why some could not run.

    Attributes:
        seconds: By name.
        failures: By name, of those that raised.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def spread(self, name: str) -> Spread | None:
        """Seconds of a contender; None if it did not run."""
        found = self.seconds.get(name)
        return Spread.of(found) if found else None

    def best(self, names: Sequence[str]) -> str | None:
        """The contender with the least median, of those that ran."""
        ran = [name for name in names if self.seconds.get(name)]
        return min(ran, key=lambda name: statistics.median(self.seconds[name]), default=None)

    def ratio(self, name: str, base: str | None) -> Spread | None:
        """Seconds of one as a multiple of another's, round by round; None if one did not run."""
        over = self.seconds.get(base) if base is not None else None
        found = self.seconds.get(name)
        if not found or not over:
            return None
        return Spread.of([one / other for one, other in zip(found, over, strict=True)])


def measure(
    contenders: Mapping[str, Contender], image: Callable[[int], Tensor], rounds: int
) -> Times:
    """Times contenders in turn.

    Every round has an image of its own, which no contender has seen before, and begins with
    another contender. A first round is not counted.

    Args:
        contenders: By name.
        image: The image of a round, from its number.
        rounds: How many are counted.

    Returns:
        The times; a contender that raises is left out from then on.
    """
    times = Times({name: [] for name in contenders})
    for number in range(rounds + 1):
        names = [name for name in contenders if name not in times.failures]
        turn = number % max(len(names), 1)
        for name in names[turn:] + names[:turn]:
            seconds = _timed(contenders[name], image(number), name, times.failures)
            if seconds is not None and number:
                times.seconds[name].append(seconds)
    for name in times.failures:
        del times.seconds[name]
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
