"""The methods by how they work, for tests that run over all of a kind."""

from __future__ import annotations

from cam_hub.methods import METHODS

ONE_PASS = {
    name: method
    for name, method in METHODS.items()
    if method.attribute is None and method.combine is None
}
"""Those whose maps come from the activations and gradients of one pass, at one layer."""

OWN_PASSES = {name: method for name, method in METHODS.items() if method.attribute is not None}
"""Those that make passes of their own."""

ATTENTION = ("rollout", "chefercam")
"""Those that read attention matrices, and so work on certain networks only."""

PIXEL = {
    name: method
    for name, method in METHODS.items()
    if method.level == "pixel" and name not in ATTENTION
}
"""Those that explain the input of any model, at no layer."""
