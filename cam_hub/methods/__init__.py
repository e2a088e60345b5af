"""CAM mathematics on tensors: from activations and gradients to maps. No model is seen here.

A new method is a function with a call of ``METHODS.register`` after it, in a module that is
imported below. It takes the evidence of one pass (``compute``), or makes passes of its own
(``attribute``). ``METHODS`` lists them in the order of registration.
"""

from cam_hub.methods.eigen_cam import eigencam
from cam_hub.methods.evidence import BlackBox, Evidence, Moments, MomentSum, check_map, normalise
from cam_hub.methods.from_captum import (
    deep_lift,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    lrp,
    smooth_grad,
)
from cam_hub.methods.from_torchcam import cam, is_cam, legrad, refine, score_cam, ss_cam
from cam_hub.methods.gradient_cams import (
    gradcam,
    gradcampp,
    hirescam,
    layercam,
    smoothgradcampp,
    xgradcam,
)
from cam_hub.methods.perturbation import occlusion, rise
from cam_hub.methods.registry import INPUT, METHODS, Method, Passes, Sign, fuse
from cam_hub.methods.self_attention import chefercam, rollout

__all__ = [
    "INPUT",
    "METHODS",
    "BlackBox",
    "Evidence",
    "Method",
    "MomentSum",
    "Moments",
    "Passes",
    "Sign",
    "cam",
    "check_map",
    "chefercam",
    "deep_lift",
    "eigencam",
    "fuse",
    "gradcam",
    "gradcampp",
    "guided_backprop",
    "hirescam",
    "input_x_gradient",
    "integrated_gradients",
    "is_cam",
    "layercam",
    "legrad",
    "lrp",
    "normalise",
    "occlusion",
    "refine",
    "rise",
    "rollout",
    "score_cam",
    "smooth_grad",
    "smoothgradcampp",
    "ss_cam",
    "xgradcam",
]
