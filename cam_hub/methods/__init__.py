"""CAM mathematics on tensors: from activations and gradients to maps. No model is seen here.

A new method is a module of its own that ends with a call of ``METHODS.register``, and one line
below.
"""

from cam_hub.methods.arithmetic import check_map, normalise
from cam_hub.methods.evidence import Evidence, Moments, MomentSum
from cam_hub.methods.registry import METHODS, Method, Sign, fuse

# isort: split
# The order of these lines is the order of METHODS, and so the one in which methods are offered.
from cam_hub.methods.smooth_grad_cam_pp import smoothgradcampp

# isort: split
from cam_hub.methods.layer_cam import layercam

# isort: split
from cam_hub.methods.grad_cam import gradcam, gradcampp, xgradcam

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
