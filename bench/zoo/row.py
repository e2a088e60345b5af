"""The result of checking one model: one line of the ledger."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["CHECKS", "ON_LAYER", "Row"]

CHECKS = {
    "smoothgradcampp": "SmoothGradCAM++ gives a map that is finite and not flat",
    "layercam": "LayerCAM gives a map that is finite and not flat",
    "on_image": "the layer lies on the image",
    "deep": "the layer is from the deep end",
    "nothing_left": "nothing is left on the model",
}
"""The checks of every model, in this order."""


ON_LAYER = ("on_image", "deep")
"""The checks whose outcome depends on the network and the layer alone."""


@dataclass
class Row:
    """The result for one model.

    Attributes:
        id: The argument of ``cam_hub.load_model``.
        source: ``"timm"`` or ``"torchvision"``.
        family: The module file that builds it, such as ``levit``.
        parameters: Number of parameters.
        status: ``"passed"``; ``"failed"`` (a check failed); ``"refused"`` (cam_hub raised one of
            its own errors before a layer was found); ``"error"`` (any other exception);
            ``"crashed"``, ``"timeout"``, ``"memory"`` (the process died or was ended).
        refusal_expected: Whether the model has nothing to explain, so that a refusal is right.
        reasons: The failures, one sentence each; the reason of a refusal.
        checks: The outcome of each of CHECKS; one that was not reached is missing.
        not_asked: Those of CHECKS that do not apply to the model's task.
        input_size: The size of the input with which it was checked.
        default_size: The model's own input size, if it was checked with a smaller one.
        layer: The recommended layer.
        layer_reason: cam_hub's reason for it.
        layout: The layout of that layer's output, which the next three also describe.
        grid: Rows and columns.
        prefix_tokens: Tokens before those of the grid.
        suffix_tokens: Tokens after those of the grid.
        forward_passes: Images that passed through the network during layer discovery.
        backward_passes: Number of calls of autograd during layer discovery.
        probe_seconds: Time of layer discovery.
        margin: See ``quadrants.Quadrants``; the worst of the four, in [-1, 1].
        best_late_margin: If the layer is not on the image: the largest margin in the last tenth of
            the usable layers, which distinguishes a bad choice from a network in which every
            position responds to the whole image.
        leaves: Leaf modules executed before pooling.
        leaves_after: Number of these that were executed after the layer.
        block_leaves: Number of these in the block that contains the layer.
        checked_by: The digest of the code that checked the layer's position and depth, if this was
            not repeated because the layer is the same.
        seconds: Time of the whole check.
        digest: The digest of the checked code and of the checks.
        versions: The versions of the relevant packages.
    """

    id: str
    source: str
    family: str
    parameters: int | None
    status: str
    refusal_expected: bool = False
    reasons: list[str] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)
    not_asked: list[str] = field(default_factory=list)
    input_size: list[int] | None = None
    default_size: list[int] | None = None
    layer: str | None = None
    layer_reason: str | None = None
    layout: str | None = None
    grid: list[int] | None = None
    prefix_tokens: int = 0
    suffix_tokens: int = 0
    forward_passes: int | None = None
    backward_passes: int | None = None
    probe_seconds: float | None = None
    margin: float | None = None
    best_late_margin: float | None = None
    leaves: int | None = None
    leaves_after: int | None = None
    block_leaves: int | None = None
    checked_by: str = ""
    seconds: float | None = None
    digest: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether the result is as required: all checks passed, or an expected refusal."""
        return self.status == "passed" or (self.status == "refused" and self.refusal_expected)

    @property
    def choice(self) -> list[Any]:
        """The recommended layer with its layout: the checks of position and depth depend on it."""
        grid = list(self.grid or [])
        size = list(self.input_size or [])
        return [self.layer, self.layout, grid, self.prefix_tokens, self.suffix_tokens, size]

    def adopt(self, recorded: Row) -> None:
        """Takes over the checks of position and depth from a row with the same ``choice``."""
        for name in ON_LAYER:
            if name in recorded.checks:
                self.checks[name] = recorded.checks[name]
        self.not_asked = list(recorded.not_asked)
        self.margin, self.leaves = recorded.margin, recorded.leaves
        self.leaves_after, self.block_leaves = recorded.leaves_after, recorded.block_leaves
        self.checked_by = recorded.checked_by or recorded.digest

    def as_json(self) -> str:
        """The row as one line; empty fields are omitted."""
        kept = {
            key: value for key, value in asdict(self).items() if value not in (None, [], {}, "")
        }
        return json.dumps(kept, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Row:
        """Reads a line; unknown fields of other versions of this program are ignored.

        Raises:
            ValueError: If the line is not a row.
        """
        content: Any = json.loads(line)
        if not isinstance(content, dict):
            raise ValueError("not a row")
        names = {each.name for each in fields(cls)}
        try:
            return cls(**{key: value for key, value in content.items() if key in names})
        except TypeError as error:
            raise ValueError(f"not a row: {error}") from error
