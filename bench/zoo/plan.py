"""The models of the sweep, and the order in which they are checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.zoo.costs import Costs
from bench.zoo.ledger import Ledger

__all__ = [
    "Candidate",
    "counted",
    "every_model",
    "in_order",
    "reduced",
    "smallest_of_each_family",
    "with_records",
]

_WITHOUT_CLASS_OR_GRADIENT = ("quantization.", "optical_flow.")
"""Module files of torchvision whose models have no gradient or no class, so that there is nothing
to explain and cam_hub must refuse them."""


@dataclass(frozen=True)
class Candidate:
    """A model that can be checked.

    Attributes:
        source: ``"timm"`` or ``"torchvision"``.
        name: Its name in that library.
        family: The module file that builds it; the path within ``torchvision.models``.
        parameters: Number of parameters; None if it is unknown.
        refusal_expected: Whether it has nothing to explain.
        macs: Multiply-adds of one pass, if they were counted.
        reduced: Whether it is to be checked with a smaller input than its own, if it accepts one.
        recorded: The fields of a row whose layer was checked before, if any.
    """

    source: str
    name: str
    family: str
    parameters: int | None = None
    refusal_expected: bool = False
    macs: int | None = None
    reduced: bool = False
    recorded: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def id(self) -> str:
        """The argument for ``cam_hub.load_model``."""
        return f"torchvision/{self.name}" if self.source == "torchvision" else self.name


def every_model(sources: Iterable[str] = ("timm", "torchvision")) -> list[Candidate]:
    """All models of timm and torchvision, sorted by ID, without sizes.

    Models that other packages (or tests) registered with timm are omitted.
    """
    found: list[Candidate] = []
    if "timm" in sources:
        import timm  # noqa: PLC0415 - seconds, and the parts that need no model are tested often

        for name in timm.list_models():
            package, _, family = timm.model_entrypoint(name).__module__.rpartition(".")
            if package == "timm.models":
                found.append(Candidate("timm", name, family))
    if "torchvision" in sources:
        import torchvision.models as zoo  # noqa: PLC0415

        for name in zoo.list_models():
            family = zoo.get_model_builder(name).__module__.removeprefix("torchvision.models.")
            refused = family.startswith(_WITHOUT_CLASS_OR_GRADIENT)
            found.append(Candidate("torchvision", name, family, refusal_expected=refused))
    return sorted(found, key=lambda each: each.id)


def counted(models: Iterable[Candidate], costs: Costs) -> list[Candidate]:
    """The models with their parameters, and with their multiplications if these are stored."""
    return [
        replace(
            each,
            parameters=costs.parameters(each.source, each.name),
            macs=costs.kept_macs(each.source, each.name),
        )
        for each in models
    ]


def smallest_of_each_family(models: Sequence[Candidate]) -> list[Candidate]:
    """The smallest member of each family with a known size, by parameters and then by name."""
    smallest: dict[tuple[str, str], Candidate] = {}
    for each in sorted(models, key=_size):
        smallest.setdefault((each.source, each.family), each)
    return list(smallest.values())


def in_order(models: Sequence[Candidate]) -> list[Candidate]:
    """The smallest model of each family first, then all others, from cheap to expensive.

    A sweep that is stopped early has then covered every family, and as many models as possible.
    """
    first = smallest_of_each_family(models)
    chosen = {each.id for each in first}
    return first + sorted((each for each in models if each.id not in chosen), key=_cost)


def reduced(models: Iterable[Candidate], most: float | None) -> list[Candidate]:
    """The models, the expensive ones marked for a check with a smaller input.

    Args:
        models: In any order, which is kept.
        most: Multiplications of one pass; None to mark none.
    """
    return [
        replace(each, reduced=most is not None and each.macs is not None and each.macs > most)
        for each in models
    ]


def with_records(models: Iterable[Candidate], ledger: Ledger) -> list[Candidate]:
    """The models, each with its row in a ledger if it passed there."""
    found = []
    for each in models:
        row = ledger.get(each.id)
        good = row is not None and row.status == "passed"
        found.append(replace(each, recorded=asdict(row)) if row and good else each)
    return found


def _size(model: Candidate) -> tuple[bool, int, str]:
    return model.parameters is None, model.parameters or 0, model.id


def _cost(model: Candidate) -> tuple[bool, int, tuple[bool, int, str]]:
    return model.macs is None, model.macs or 0, _size(model)
