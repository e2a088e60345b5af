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
        passes: How many images pass through the network for it; cached ones are counted, too.
        sentence: The result in one plain sentence.
        details: Further figures; JSON types only.
    """

    name: str
    value: float | None
    baselines: Mapping[str, float] = field(default_factory=dict)
    passes: int = 0
    sentence: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def clears(self) -> bool:
        """Of a test by perturbation: whether its value exceeds 0 and all baselines."""
        return self.value is not None and self.value > max([0.0, *self.baselines.values()])

    @property
    def best_baseline(self) -> str | None:
        """The highest baseline that the value does not exceed, by name; None if there is none."""
        if self.value is None or not self.baselines:
            return None
        name, most = max(self.baselines.items(), key=lambda each: each[1])
        return name if most >= self.value else None

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
    sentence = _UNTESTED.format(name) + reason
    return EvidenceTest(name, None, {}, passes, sentence, details or {})


_UNTESTED = "Not tested ({}): "
"""The beginning of the sentence of a test that could not be made."""

_DECISIVE = ("cover", "road")
"""The tests that decide whether a map is faithful: the first one that could be made."""


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
        """Whether covering what the map marks moves the score, and more than every baseline.

        By the cover test; where that could not be made, by ROAD. None where neither could.
        """
        return None if (decisive := self._decisive) is None else decisive.clears

    @property
    def _decisive(self) -> EvidenceTest | None:
        """The test that decides whether the map is faithful."""
        made = [self[name] for name in _DECISIVE if name in self]
        return next((test for test in made if test.value is not None), None)

    @property
    def class_specific(self) -> bool | None:
        """Whether the map differs from those of other classes; None where that was not tested."""
        if "class_check" not in self or (value := self["class_check"].value) is None:
            return None
        return value < self["class_check"].baselines["same"]

    @property
    def verdict(self) -> str:
        """The result of the tests, in words.

        Where a map is faithful by one test, and another test contradicts, they state both.
        """
        specific = self.class_specific
        details = self["class_check"].details if specific is False else {}
        same = "the same for any class"
        if details.get("classes") == []:  # then the opposite contrast was compared
            same = "the same for the opposite contrast"
        if instead := details.get("instead"):
            same += f": use {instead['words']}"
        decisive = self._decisive
        if decisive is None:
            reasons = [
                test.sentence.removeprefix(_UNTESTED.format(test.name)) for test in self._reasons
            ]
            first = [each.rstrip(".") for each in reasons[:-1]]
            words = "not tested" + (": " if reasons else "") + "; ".join([*first, *reasons[-1:]])
            if specific is None:
                return words
            return f"{'class-specific' if specific else same}; whether it is faithful was {words}"
        if not decisive.clears:
            best = decisive.best_baseline
            return f"no better than {_WORDS.get(best, best)}" if best else _WRONG
        words = "class-specific and faithful" if specific else "faithful"
        return "; but ".join([f"{words}, but {same}" if specific is False else words, *self.flags])

    @property
    def _reasons(self) -> list[EvidenceTest]:
        """The tests that state why it is unknown whether the map is faithful."""
        failed = [test for test in self.tests if test.value is None]
        return [test for test in failed if test.name in _DECISIVE] or failed

    @property
    def flags(self) -> list[str]:
        """The tests that contradict the decisive one of a faithful map, in words."""
        found = []
        if "road" in self and self["road"].value is not None and not self["road"].clears:
            best = self["road"].best_baseline
            found.append(
                f"by ROAD no better than {_WORDS.get(best, best)}" if best else "not so by ROAD"
            )
        for name, baseline, above, words in _RED_FLAGS:
            if name not in self or (value := self[name].value) is None:
                continue
            limit = self[name].baselines[baseline]
            if value >= limit if above else value < limit:
                found.append(words)
        return found

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
            found = cls(
                tuple(map(EvidenceTest.from_dict, entry["tests"])),
                int(entry["class_index"]),
                None if layer is None else str(layer),
                str(entry.get("baseline", "blur")),
            )
            _ = found.verdict  # which reads baselines and details
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidArgument("evidence", entry, "what to_dict gave") from error
        return found

    def __str__(self) -> str:
        """Verdict and sentences; reasons that the verdict states are not repeated."""
        stated = self._reasons if self.faithful is None else []
        sentences = [test.sentence for test in self.tests if test not in stated]
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

_WRONG = "not faithful: covering what it marks does not move the score as it claims"
"""The verdict where no baseline is better, but the map has no effect, or the opposite one."""

_RED_FLAGS = (
    ("randomised", "same", True, "it hardly depends on what the model has learnt"),
    ("stability", "steady", False, "it changes with invisible noise or another seed"),
)
"""Test, its limit, whether values above the limit are bad, and what that means."""
