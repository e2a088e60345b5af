"""The registry ``METHODS``, and the fusion of maps of several layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cam_hub.errors import InvalidArgument, MethodNotFound, nearest_names
from cam_hub.methods.evidence import BlackBox, Evidence, Moments, by_maximum

__all__ = [
    "INPUT",
    "METHODS",
    "Level",
    "Method",
    "MethodRegistry",
    "Passes",
    "Sign",
    "canonical_name",
    "combines",
    "fuse",
    "level",
    "needs_noise",
    "own_passes",
]


Sign = Literal["for", "against", "both"]
"""Which evidence a map shows: for the class, against it, or one less the other."""

Level = Literal["layer", "pixel"]
"""Where a map comes from: the grid of a layer, or the pixels of the model's input."""

INPUT: Final = "input"
"""The name of the layer of pixel-level maps: the model's input."""


@dataclass(frozen=True, slots=True)
class Passes:
    """The cost of a map, which all layers of one explanation share.

    Attributes:
        forward: Images that pass the network.
        backward: Backward passes per image and class.
        per: For what both are needed once more, in the singular (``"noisy copy"``); empty if for
            nothing.
        times: How often they are needed for each of these.
        shared: Whether all classes share the forward passes; if not, one more finds the classes.

    Example:
        >>> str(Passes(per="noisy copy"))
        '1 forward, 1 backward per class; the same again per noisy copy'
        >>> str(Passes(2, 0, per="channel, layer and class"))
        '2 forward; 1 forward per channel, layer and class'
    """

    forward: int = 1
    backward: int = 1
    per: str = ""
    times: int = 1
    shared: bool = True

    def count(self, channels: int = 0, classes: int = 1, copies: int = 0) -> int:
        """How many images pass the network forward.

        Args:
            channels: Those of all layers together.
            classes: The explained classes.
            copies: The noisy copies of each class.

        Example:
            >>> Passes(2, 0, per="channel, layer and class", times=35).count(channels=1280)
            44802
        """
        again = copies if self.per == "noisy copy" else channels * classes if self.per else 0
        if not self.shared:
            return 1 + self.forward * classes * max(1, again)
        return self.forward + again * self.times

    def __str__(self) -> str:
        if not self.shared:
            each = f"class and {self.per}" if self.per else "class"
            return f"1 forward; {self.forward} forward and {self.backward} backward per {each}"
        if self.backward:
            again = f"; the same again per {self.per}" if self.per else ""
            return f"{self.forward} forward, {self.backward} backward per class{again}"
        again = f"; {self.times} forward per {self.per}" if self.per else ""
        return f"{self.forward} forward{again}"


def _from_own_passes(evidence: Evidence) -> Tensor:
    """Stands in as ``Method.compute`` where a map cannot be made of one pass's evidence."""
    del evidence
    expected = "explain(): maps of this method take passes of their own, beyond one's evidence"
    raise InvalidArgument("evidence", "activations and gradients", expected)


@dataclass(frozen=True, slots=True)
class Method:
    """A way to turn evidence into a map.

    Attributes:
        name: Canonical name, see :func:`canonical_name`.
        title: Name as its authors spell it.
        paper: Citation, which begins with authors and year.
        url: Where to read the paper.
        needs_noise: Whether ``compute`` needs ``Evidence.noisy``.
        compute: From the evidence to the map ``(B, *grid)``, at least 0, un-normalised. Must treat
            every sample of the batch on its own and write to none of its inputs.
        attribute: For a method that makes passes of its own, in place of ``compute``: from the
            black box to one map for each of its B scores, ``(B, *grid)``, at least 0,
            un-normalised; of a clip ``(B, steps, rows, cols)``. None for a method whose map comes
            from one pass's evidence.
        seeded: Whether ``attribute`` draws at random, from the seed.
        unsigned: Whether its map has magnitudes, which are the same for the negated score.
        requires: The optional package that it needs; empty for none.
        needs: What it needs of a network, for the error where it fails; empty for nothing special.
        scale: From maps ``(B, *grid)`` of one layer to comparable ones in [0, 1], for the fusion
            of several layers. Zeros stay zeros.
        combine: Fuses the maps of several layers in a way of its own, see :func:`fuse`; such a
            method is one of several layers, by default the ends of all stages.
        summary: What it does and what it is good for, in a sentence.
        level: Where its maps come from.
        passes: What a map costs.
        cancellation: From the evidence to the share, ``(B,)`` in [0, 1], of the paper's weights
            that comes from denominators whose terms cancel. ``compute`` does not have these
            denominators: its maps differ from the paper's where the share is large. None for a
            method whose formula cannot cancel there.
        blank: When its map is zero everywhere by construction, for the error in that case.
        class_specific: Whether the map depends on the class by construction: a method that does
            not use the gradient draws the same map for all classes.
        sign: Which evidence its maps show, see :meth:`signed`.
        key: Name and sign, which together distinguish its maps from those of other methods.
    """

    name: str
    title: str
    paper: str
    url: str
    needs_noise: bool = False
    compute: Callable[[Evidence], Tensor] = _from_own_passes
    attribute: Callable[[BlackBox], Tensor] | None = None
    seeded: bool = False
    unsigned: bool = False
    requires: str = ""
    needs: str = ""
    scale: Callable[[Tensor], Tensor] = by_maximum
    combine: Callable[[Sequence[Tensor]], Tensor] | None = None
    summary: str = ""
    level: Level = "layer"
    passes: Passes = Passes()
    class_specific: bool = True
    cancellation: Callable[[Evidence], Tensor] | None = None
    blank: str = ""
    sign: Sign = "for"
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        key = self.name if self.sign == "for" else f"{self.name} {self.sign}"
        object.__setattr__(self, "key", key)

    @property
    def citation(self) -> str:
        """Authors and year of the paper."""
        found = re.match(r".*?\b\d{4}\b", self.paper)
        return found.group() if found else self.paper

    def signed(self, sign: Sign) -> Method:
        """The same method for evidence of another sign.

        With ``M(A, g)`` the method's map of activations and gradients, ``"for"`` is ``M(A, g)``;
        ``"against"`` is ``M(A, -g)``, the map of the negated score; ``"both"`` is the first less
        the second. For methods that are linear in the gradient up to their last ReLU (Grad-CAM,
        XGrad-CAM, HiResCAM), ``"both"`` is therefore the map without that ReLU, and for LayerCAM
        on activations of at least 0 it is ``Σ_k g A``, that of HiResCAM.

        Args:
            sign: Which evidence.

        Raises:
            InvalidArgument: The method is signed already, or its map does not depend on the score.
        """
        if sign == self.sign:
            return self
        if not self.class_specific:
            expected = f"'for': the map of {self.title} is the same for every score"
            raise InvalidArgument("sign", sign, expected)
        if self.unsigned:
            expected = f"'for': the map of {self.title} has magnitudes, of which none is against"
            raise InvalidArgument("sign", sign, expected)
        if self.sign != "for":
            raise InvalidArgument("sign", sign, "the registered method, of sign 'for'")
        if (own := self.attribute) is not None:

            def attribute(box: BlackBox) -> Tensor:
                if sign == "against":
                    return own(box.negated())
                positive, negative = own(box.with_negated()).chunk(2)
                return positive - negative

            return replace(self, sign=sign, attribute=attribute)
        positive = self.compute

        def against(evidence: Evidence) -> Tensor:
            return positive(evidence.negated())

        def both(evidence: Evidence) -> Tensor:
            return positive(evidence) - against(evidence)

        cancelling = self.cancellation
        if cancelling is not None:
            plain = cancelling

            def cancelling(evidence: Evidence) -> Tensor:
                share = plain(evidence.negated())
                return share if sign == "against" else torch.maximum(plain(evidence), share)

        compute = against if sign == "against" else both
        return replace(self, sign=sign, compute=compute, cancellation=cancelling)

    def __call__(
        self, activation: Tensor, gradient: Tensor, noisy_gradients: Tensor | None = None
    ) -> Tensor:
        """The map of given tensors, as for a method tried outside of ``explain``.

        Args:
            activation: ``(B, C, *grid)``.
            gradient: Derivative of a class score by ``activation``, the same shape.
            noisy_gradients: The same at noisy copies of the image, ``(S, B, C, *grid)``; for
                methods that need noise. Left out, the clean gradient is the only sample.

        Returns:
            ``(B, *grid)``, at least 0, un-normalised.

        Raises:
            InvalidArgument: The shapes do not fit.
        """
        noisy = None
        if self.needs_noise:
            samples = gradient[None] if noisy_gradients is None else noisy_gradients
            noisy = Moments.of(samples)
        return self.compute(Evidence(activation, gradient, noisy))


needs_noise: Final = attrgetter("needs_noise")
"""Whether a method needs noisy copies, for ``filter`` and ``map`` over methods."""

own_passes: Final = attrgetter("attribute")
"""True in a condition if a method makes passes of its own, for the same."""

combines: Final = attrgetter("combine")
"""True in a condition if a method is one of several layers."""

level: Final = attrgetter("level")
"""Where a method's maps come from, for ``map``."""


class MethodRegistry(Mapping[str, Method]):
    """A mapping from canonical name to method that grows by :meth:`register` only.

    Look-ups take any spelling that :func:`canonical_name` brings to a canonical name; iteration
    yields the canonical names in order of registration.

    Example:
        >>> from cam_hub.methods import METHODS
        >>> METHODS["Grad-CAM++"].name
        'gradcampp'
    """

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def register(self, method: Method) -> Method:
        """Add a method.

        Args:
            method: The method, under a name that is still free.

        Returns:
            The same method.

        Raises:
            InvalidArgument: The name is not canonical, or is taken.
        """
        name = method.name
        if not name or name != canonical_name(name):
            expected = "a name in lower case without '-', '_', '+' and spaces"
            raise InvalidArgument("name", name, expected)
        if name in self._methods:
            expected = f"a name that no method has yet (taken: {', '.join(self)})"
            raise InvalidArgument("name", name, expected)
        self._methods[name] = method
        return method

    def __getitem__(self, name: str) -> Method:
        text = str(name)  # so that None or a number is not found, rather than a crash
        found = self._methods.get(text)
        if found is None:
            key = canonical_name(text)
            found = self._methods.get(key)
        if found is None:
            hint = f"Known: {', '.join(self)}; and auto, which chooses by evidence."
            raise MethodNotFound(name, nearest_names(key, self), hint)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"


def canonical_name(name: str) -> str:
    """The spelling under which a method is registered.

    Lower case, without ``-``, ``_`` and spaces, and with ``++`` written ``pp``.

    Args:
        name: Any spelling.

    Returns:
        The canonical spelling, whether or not there is such a method.

    Example:
        >>> canonical_name("Smooth Grad-CAM++")
        'smoothgradcampp'
    """
    lowered = name.lower().replace("++", "pp")
    return "".join(letter for letter in lowered if letter not in "-_" and not letter.isspace())


METHODS: Final = MethodRegistry()
"""Every method of cam_hub, filled when ``cam_hub.methods`` is imported."""


# Number of grid axes -> the interpolation that is linear along each of them.
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def fuse(maps: Sequence[Tensor], method: Method) -> Tensor:
    """Combine the maps that one method made of several layers.

    Each map is brought to [0, 1] by the method's own scale, resized linearly to the finest grid
    and combined with the others by the largest value, as the authors of LayerCAM do (Jiang et al.
    2021). Scaling comes first, so that no layer wins merely by larger numbers. Signed maps are
    brought to [-1, 1], and the value of the largest magnitude wins.

    torchcam 0.5 differs: it counts on maps that were normalised before, resizes 1-D maps by the
    nearest neighbour, and hands back a single map unscaled.

    Args:
        maps: One un-normalised map per layer, ``(B, *grid)``, at least 0 unless the method is
            signed; the grids may differ in size, but have the same one to three axes.
        method: The method that made them.

    Returns:
        ``(B, *grid)`` in [0, 1], signed in [-1, 1], each axis as long as the longest of the maps.

    Raises:
        InvalidArgument: The list is empty, or the maps do not fit together.
    """
    shapes = [tuple(cam.shape) for cam in maps]
    if not shapes:
        raise InvalidArgument("maps", maps, "the map of at least one layer")
    if len({(shape[:1], len(shape)) for shape in shapes}) > 1 or len(shapes[0]) - 1 not in _LINEAR:
        expected = "maps (batch, *grid) of one batch size, all with the same 1, 2 or 3 grid axes"
        raise InvalidArgument("maps", shapes, expected)
    if method.combine is not None and len(maps) > 1:
        return method.combine(maps)
    finest = [max(sizes) for sizes in zip(*(shape[1:] for shape in shapes), strict=True)]
    fused = _resize(_scaled(maps[0], method), finest)
    for cam in maps[1:]:
        other = _resize(_scaled(cam, method), finest)
        fused = torch.where(other.abs() > fused.abs(), other, fused)
    # The two weights of an interpolation may add up to a rounding more than 1.
    return fused.clamp(min=-1, max=1)


def _scaled(cam: Tensor, method: Method) -> Tensor:
    """A map on the method's own scale; of a signed one the magnitude is scaled, the sign kept."""
    return method.scale(cam) if method.sign != "both" else method.scale(cam.abs()) * cam.sign()


def _resize(maps: Tensor, grid: list[int]) -> Tensor:
    mode = _LINEAR[len(grid)]
    return interpolate(maps.unsqueeze(1), grid, mode=mode, align_corners=False).squeeze(1)
