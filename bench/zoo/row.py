"""What is known of one model after its check: one line of the ledger."""

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
"""What every model is checked for, in this order."""


ON_LAYER = ("on_image", "deep")
"""The checks whose outcome depends on the network and the layer alone."""


@dataclass
class Row:
    """One model's outcome.

    Attributes:
        id: What ``cam_hub.load_model`` was given.
        source: ``"timm"`` or ``"torchvision"``.
        family: The module file that builds it, such as ``levit``.
        parameters: How many there are.
        status: ``"passed"``; ``"failed"`` (a check did not hold); ``"refused"`` (cam_hub raised an
            error of its own before there was a layer); ``"error"`` (any other exception);
            ``"crashed"``, ``"timeout"``, ``"memory"`` (the process died or was ended).
        refusal_expected: Whether there is nothing to explain in it, so that a refusal is right.
        reasons: What went wrong, one sentence each; the reason of a refusal.
        checks: Which of CHECKS held; one that was not reached is missing.
        not_asked: Which of CHECKS make no sense for its task.
        input_size: Of the input it was checked with.
        default_size: That of the model, where it was checked with a smaller one.
        layer: The recommended layer.
        layer_reason: cam_hub's own reason for it.
        layout: Of that layer's output, as the next three.
        grid: Rows and columns.
        prefix_tokens: Tokens before those of the grid.
        suffix_tokens: Tokens after those of the grid.
        forward_passes: Images that went through the network while the layers were found.
        backward_passes: How often autograd was asked for gradients meanwhile.
        probe_seconds: How long that took.
        margin: See ``quadrants.Quadrants``; the worst of the four, in [-1, 1].
        best_late_margin: Where the layer does not lie on the image: the greatest margin in the
            last tenth of the usable layers, to tell a bad choice from a network whose places
            answer to everything.
        leaves: Leaf modules executed before pooling.
        leaves_after: How many of them were executed after the layer.
        block_leaves: How many of them belong to the block that contains the layer.
        checked_by: The digest of the code that checked the layer's place and depth, where that was
            not done again since the layer is the same.
        seconds: The whole check.
        digest: Of the code that was checked and of the checker.
        versions: Of the packages that matter.
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
        """Whether this is what must come out: all checks held, or a refusal that is right."""
        return self.status == "passed" or (self.status == "refused" and self.refusal_expected)

    @property
    def choice(self) -> list[Any]:
        """The recommended layer with its place: what checks of place and depth depend on."""
        grid = list(self.grid or [])
        size = list(self.input_size or [])
        return [self.layer, self.layout, grid, self.prefix_tokens, self.suffix_tokens, size]

    def adopt(self, recorded: Row) -> None:
        """Takes over the checks of place and depth from a row with the same ``choice``."""
        for name in ON_LAYER:
            if name in recorded.checks:
                self.checks[name] = recorded.checks[name]
        self.not_asked = list(recorded.not_asked)
        self.margin, self.leaves = recorded.margin, recorded.leaves
        self.leaves_after, self.block_leaves = recorded.leaves_after, recorded.block_leaves
        self.checked_by = recorded.checked_by or recorded.digest

    def as_json(self) -> str:
        """The row as one line; what was not reached is left out."""
        kept = {
            key: value for key, value in asdict(self).items() if value not in (None, [], {}, "")
        }
        return json.dumps(kept, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Row:
        """Reads a line; fields of other versions of this program are left out.

        Raises:
            ValueError: If the line is no row.
        """
        content: Any = json.loads(line)
        if not isinstance(content, dict):
            raise ValueError("not a row")
        names = {each.name for each in fields(cls)}
        try:
            return cls(**{key: value for key, value in content.items() if key in names})
        except TypeError as error:
            raise ValueError(f"not a row: {error}") from error
