"""The methods by name. A method enters by a call of ``METHODS.register`` in its own module."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from torch import Tensor

from cam_hub.errors import InvalidArgument, MethodNotFound, nearest_names
from cam_hub.methods.evidence import Evidence, Moments
from cam_hub.methods.scaling import by_maximum

__all__ = ["METHODS", "Method", "MethodRegistry", "Sign", "canonical_name"]

Sign = Literal["for", "against", "both"]
"""Which evidence a map shows: for the class, against it, or one less the other."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to turn evidence into a map.

    Attributes:
        name: Canonical name, see :func:`canonical_name`.
        title: Name as its authors spell it.
        paper: Citation.
        url: Where to read the paper.
        needs_noise: Whether ``compute`` needs ``Evidence.noisy``.
        compute: From the evidence to the map ``(B, *grid)``, at least 0, un-normalised. Must treat
            every sample of the batch on its own and write to none of its inputs.
        scale: From maps ``(B, *grid)`` of one layer to comparable ones in [0, 1], for the fusion
            of several layers. Zeros stay zeros.
        summary: What it does and what it is good for, in a sentence.
        sign: Which evidence its maps show, see :meth:`signed`.
    """

    name: str
    title: str
    paper: str
    url: str
    needs_noise: bool
    compute: Callable[[Evidence], Tensor]
    scale: Callable[[Tensor], Tensor] = by_maximum
    summary: str = ""
    sign: Sign = "for"

    @property
    def key(self) -> str:
        """What tells its maps from those of other methods and signs."""
        return self.name if self.sign == "for" else f"{self.name} {self.sign}"

    def signed(self, sign: Sign) -> "Method":
        """The same method for evidence of another sign.

        With ``M(A, g)`` the method's map of activations and gradients, ``"for"`` is ``M(A, g)``;
        ``"against"`` is ``M(A, -g)``, the map of the negated score; ``"both"`` is the first less
        the second. For methods that are linear in the gradient up to their last ReLU (Grad-CAM,
        XGrad-CAM), ``"both"`` is therefore the map without that ReLU, and for LayerCAM on
        activations of at least 0 it is ``Σ_k g A``.

        Args:
            sign: Which evidence.
        """
        if sign == self.sign:
            return self
        if self.sign != "for":
            raise InvalidArgument("sign", sign, "the registered method, of sign 'for'")
        positive = self.compute

        def against(evidence: Evidence) -> Tensor:
            return positive(evidence.negated())

        def both(evidence: Evidence) -> Tensor:
            return positive(evidence) - against(evidence)

        return replace(self, sign=sign, compute=against if sign == "against" else both)

    def __call__(
        self, activation: Tensor, gradient: Tensor, noisy_gradients: Tensor | None = None
    ) -> Tensor:
        """The map of tensors that are at hand, as for a method tried outside of ``explain``.

        Args:
            activation: ``(B, C, *grid)``.
            gradient: Of a class score by ``activation``, the same shape.
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
        # str() so that None or a number is not found, rather than a crash.
        key = canonical_name(str(name))
        try:
            return self._methods[key]
        except KeyError:
            hint = f"Known: {', '.join(self)}."
            raise MethodNotFound(name, nearest_names(key, self), hint) from None

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
