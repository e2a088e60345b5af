"""``LayerInfo``: one layer, as seen from outside."""

from __future__ import annotations

from dataclasses import dataclass

from cam_hub.layers.layouts import Arrangement

__all__ = ["LayerInfo"]


@dataclass(frozen=True)
class LayerInfo:
    """One layer, as seen from outside.

    Attributes:
        name: Its name in the model, as in ``named_modules``.
        module_type: Its class.
        layout: How its output is laid out (``"NCHW"``), or None if it is not spatial.
        grid: Rows and columns of its output, or None.
        channels: Channels of its output, or None.
        prefix_tokens: Tokens before those of the grid that belong to no place.
        is_conv: Whether it is a convolution.
        stage: Number of its resolution, 0 for the finest; None if it is not usable.
        usable: Whether a map can be made from it.
        recommended: Whether it is the one to explain when nothing else is asked for.
        reason: In plain words, why it is or is not usable.
        suffix_tokens: Tokens after those of the grid that belong to no place.
        frames: Steps of time in its output, each with a grid of its own; 1 for an image.
        faint: Whether a change of the input is lost in this output's rounding errors (deep
            networks with random weights), so that its maps are computed in double precision.
        overwritten: Whether what follows writes to its output (in-place layers, ``+=``), so that
            only a copy of it lasts.
        calls: How often it runs in one pass.
        call: Which of these calls is explained, from 0.
        readable_calls: The calls whose output follows the image, for a layer with weights that
            runs several times (a backbone shared by two views).
        turn: How the network has turned the image before this layer (``"T"`` transposed, ``"H"``
            mirrored, ``"V"`` upside down, or several of these); empty if it is upright. Grid and
            maps are those of the image, turned back.
        extent: The top, left, bottom and right of the part of the input that the grid covers, as
            parts of its height and width: not (0, 0, 1, 1) where the network crops or pads on the
            way. Maps are placed there.
        note: What must be known of every map of this layer, in plain words (it is not deep, since
            later layers could not be read); empty if there is nothing. Manifests and the page
            state it.
    """

    name: str
    module_type: str
    layout: str | None
    grid: tuple[int, int] | None
    channels: int | None
    prefix_tokens: int
    is_conv: bool
    stage: int | None
    usable: bool
    recommended: bool
    reason: str
    suffix_tokens: int = 0
    frames: int = 1
    faint: bool = False
    overwritten: bool = False
    extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    note: str = ""
    calls: int = 1
    call: int = 0
    readable_calls: tuple[int, ...] = ()
    turn: str = ""

    @property
    def notes(self) -> str:
        """All that must be known of every map of this layer; empty if there is nothing."""
        if not self.readable_calls:
            return self.note
        others = [str(number) for number in self.readable_calls if number != self.call]
        instead = f"; call={' or '.join(others)} selects another" if others else ""
        which = f"it runs {self.calls} times in one pass, and call {self.call} is shown{instead}"
        return f"{self.note}; {which}" if self.note else which

    @property
    def arrangement(self) -> Arrangement | None:
        """How its output is read as maps over the image."""
        if self.layout is None or self.grid is None or self.channels is None:
            return None
        return Arrangement(
            self.layout,
            self.grid,
            self.channels,
            self.prefix_tokens,
            self.suffix_tokens,
            self.frames,
            self.turn,
        )
