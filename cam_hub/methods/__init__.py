"""CAM mathematics on tensors: from activations and gradients to maps. No model is seen here.

A new method is a function with a call of ``METHODS.register`` after it, in ``gradient_cams`` or in
a module that is imported below. ``METHODS`` lists them in the order of registration.
"""

from cam_hub.methods.arithmetic import check_map, normalise
from cam_hub.methods.evidence import Evidence, Moments, MomentSum
from cam_hub.methods.gradient_cams import (
    gradcam,
    gradcampp,
    layercam,
    smoothgradcampp,
    xgradcam,
)
from cam_hub.methods.registry import METHODS, Method, Sign, fuse

__all__ = [
    "METHODS",
    "Evidence",
    "Method",
    "MomentSum",
    "Moments",
    "Sign",
    "check_map",
    "fuse",
    "gradcam",
    "gradcampp",
    "layercam",
    "normalise",
    "smoothgradcampp",
    "xgradcam",
]
