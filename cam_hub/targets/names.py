"""Names of a wrapped model's classes, compared with the number of its scores."""

from __future__ import annotations

from dataclasses import dataclass

from cam_hub.errors import InvalidArgument

__all__ = ["Names"]


@dataclass(frozen=True)
class Names:
    """Labels that a model was wrapped with.

    Attributes:
        labels: One per class. For a model with one logit: that of class 1, or those of class 0
            and class 1.
        declared: Whether the module declares them, rather than its user. Declared labels that do
            not fit belong to the scores that the module had before its head was replaced.
    """

    labels: tuple[str, ...]
    declared: bool = False

    def of(self, count: int) -> tuple[str, ...]:
        """The labels of ``count`` scores.

        Args:
            count: How many scores the network returns for an image; 1 for a single logit.

        Returns:
            One label per class: two for a single logit, that of class 0 and that of class 1.

        Raises:
            InvalidArgument: Their number does not fit. The message states both numbers.
        """
        if count == 1 and len(self.labels) in (1, 2):
            return self.both
        if len(self.labels) == count:
            return self.labels
        if self.declared:
            return tuple(f"class {index}" for index in range(max(count, 2)))
        labels = "1 label" if len(self.labels) == 1 else f"{len(self.labels)} labels"
        if count == 1:
            expected = "one label (of class 1) or two (of class 0 and class 1), as the model has"
            expected += f" 1 output; and these are {labels}"
        else:
            expected = f"{count} labels, one for each output of the model; and these are {labels}"
        raise InvalidArgument("class_names", self.labels, expected)

    @property
    def both(self) -> tuple[str, ...]:
        """The labels of class 0 and class 1 where there may be one logit only."""
        return (f"not {self.labels[0]}", *self.labels) if len(self.labels) == 1 else self.labels
