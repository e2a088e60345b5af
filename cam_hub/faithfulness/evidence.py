"""The results of the tests of a map, and what follows from them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cam_hub.errors import InvalidArgument

__all__ = ["Evidence", "EvidenceTest"]


@dataclass(frozen=True)
class EvidenceTest:
    """The result of one test of a map.

    Attributes:
        name: The test's name in ``CHECKS``.
        value: The result; None where the test could not be made.
        baselines: The same measure for maps, or places, that do not depend on the explanation, by
            name. A value means something only in comparison with these.
        passes: How many images passed through the network for it.
        sentence: The result in one plain sentence.
        details: Further figures; JSON types only.
    """

    name: str
    value: float | None
    baselines: Mapping[str, float] = field(default_factory=dict)
    passes: int = 0
    sentence: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON types only; ``from_dict`` reads them."""
        return {
            "name": self.name,
            "value": self.value,
            "baselines": dict(self.baselines),
            "passes": self.passes,
            "sentence": self.sentence,
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, entry: Any) -> EvidenceTest:
        """A result from ``to_dict``; parts of later versions are left out.

        Raises:
            InvalidArgument: If it is something else.
        """
        try:
            value = entry["value"]
            found = cls(
                name=str(entry["name"]),
                value=None if value is None else float(value),
                baselines={str(key): float(each) for key, each in entry["baselines"].items()},
                passes=int(entry["passes"]),
                sentence=str(entry["sentence"]),
                details=dict(entry.get("details", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidArgument("evidence", entry, "what to_dict gave") from error
        numbers = [*found.baselines.values(), found.value or 0.0]
        if not all(map(math.isfinite, numbers)):
            raise InvalidArgument("evidence", entry, "finite numbers")
        return found


def untested(
    name: str, reason: str, passes: int = 0, details: Mapping[str, Any] | None = None
) -> EvidenceTest:
    """The result of a test that could not be made.

    Args:
        name: The test.
        reason: Why, as the end of a sentence.
        passes: How many images have passed all the same.
        details: What was found out.
    """
    sentence = f"Not tested ({name}): {reason}"
    return EvidenceTest(name, None, {}, passes, sentence, details or {})


@dataclass(frozen=True)
class Evidence:
    """How far a map can be trusted, by tests against the model itself; without a single grade.

    Attributes:
        tests: The results, in the order in which the tests were named.
        class_index: The class whose map was tested.
        layer: The layer of that map; None for the fusion of all.
        baseline: What appeared in place of covered pixels.
    """

    tests: tuple[EvidenceTest, ...]
    class_index: int = 0
    layer: str | None = None
    baseline: str = "blur"

    def __getitem__(self, name: str) -> EvidenceTest:
        """The result of a test.

        Raises:
            KeyError: If it was not made.
        """
        for test in self.tests:
            if test.name == name:
                return test
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        """Whether a test was made."""
        return any(test.name == name for test in self.tests)

    @property
    def passes(self) -> int:
        """How many images passed through the network for all tests."""
        return sum(test.passes for test in self.tests)

    @property
    def faithful(self) -> bool | None:
        """Whether covering what the map marks matters more than every baseline.

        None where neither the cover test nor ROAD could be made.
        """
        return _clears(self, "cover", "road")

    @property
    def class_specific(self) -> bool | None:
        """Whether the map differs from those of other classes; None where that was not tested."""
        if "class_check" not in self or (value := self["class_check"].value) is None:
            return None
        return value < self["class_check"].baselines["same"]

    @property
    def verdict(self) -> str:
        """The result of the tests, in words."""
        if self.faithful is None:
            reasons = [test.sentence for test in self.tests if test.value is None]
            return " ".join(["not tested:", *reasons]) if reasons else "not tested"
        if not self.faithful:
            worst = self["cover"] if "cover" in self else self["road"]
            baselines = {name: value for name, value in worst.baselines.items() if name in _WORDS}
            best = max(baselines, key=baselines.__getitem__)
            return f"no better than {_WORDS[best]}"
        if self.class_specific is None:
            return "faithful"
        if self.class_specific:
            return "class-specific and faithful"
        instead = self["class_check"].details.get("instead")
        use = f": use {instead['words']}" if instead else ""
        return f"faithful, but the same for any class{use}"

    def to_dict(self) -> dict[str, Any]:
        """Tests and verdict, JSON types only; ``from_dict`` reads them."""
        return {
            "class_index": self.class_index,
            "layer": self.layer,
            "baseline": self.baseline,
            "verdict": self.verdict,
            "tests": [test.to_dict() for test in self.tests],
        }

    @classmethod
    def from_dict(cls, entry: Any) -> Evidence:
        """The results from ``to_dict``.

        Raises:
            InvalidArgument: If it is something else.
        """
        try:
            layer = entry["layer"]
            return cls(
                tuple(map(EvidenceTest.from_dict, entry["tests"])),
                int(entry["class_index"]),
                None if layer is None else str(layer),
                str(entry.get("baseline", "blur")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument("evidence", entry, "what to_dict gave") from error

    def __str__(self) -> str:
        """Verdict and sentences; reasons that the verdict states are not repeated."""
        stated = self.faithful is None
        sentences = [t.sentence for t in self.tests if not (stated and t.value is None)]
        return "\n".join([f"{self.verdict.rstrip('.')}.", *sentences])

    def _repr_html_(self) -> str:
        """For notebooks: verdict, sentences, and a table of the tests."""
        rows = [("test", "value", "baselines", "images that pass")]
        for test in self.tests:
            value = "not tested" if test.value is None else f"{test.value:.3g}"
            baselines = ", ".join(f"{name} {each:.3g}" for name, each in test.baselines.items())
            rows.append((test.name, value, baselines, str(test.passes)))
        cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        table = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"{self._sentences_html()}<table>{table}</table>"

    def _sentences_html(self) -> str:
        """Verdict and sentences as a paragraph; the sentences alone where nothing was tested."""
        verdict = f"{self.verdict[:1].upper()}{self.verdict[1:]}."
        shown = "" if self.faithful is None else f"<strong>{html.escape(verdict)}</strong> "
        return f"<p>{shown}{html.escape(' '.join(test.sentence for test in self.tests))}</p>"


_WORDS = {
    "elsewhere": "the same area at another place",
    "centre": "a spot in the middle",
    "random": "a random map",
}
"""The baselines of tests by perturbation, in words."""


def _clears(evidence: Evidence, *names: str) -> bool | None:
    """Whether a test's value exceeds all its baselines; of several tests, the first one made."""
    for name in names:
        if name in evidence and (value := evidence[name].value) is not None:
            return value > max(evidence[name].baselines.values(), default=0.0)
    return None
