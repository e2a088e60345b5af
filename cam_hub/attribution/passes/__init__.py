"""Ways through a network and back: what target layers did, and what the scores make of it.

| module | one job |
|---|---|
| ``job`` | the input of a pass: model, image, layers, target; noisy copies; rows of a batch |
| ``forward`` | some images through the network, with the graph for the backward pass |
| ``accumulator`` | gradients, layer by layer as they arrive, to maps |
| ``runner`` | one whole pass: chunks, classes, layers, methods |
| ``batched_runner`` | several images forward and backward in the same chunks |
| ``model_state`` | whether it is still the same network and the same input |
| ``pass_cache`` | recent passes, so that nothing is computed twice |
"""

from cam_hub.attribution.passes.accumulator import Key
from cam_hub.attribution.passes.batched_runner import BatchLimit, run_together
from cam_hub.attribution.passes.forward import Setting
from cam_hub.attribution.passes.job import Job, Noise, Pass, Progress
from cam_hub.attribution.passes.pass_cache import RECENT, RecentPasses
from cam_hub.attribution.passes.runner import forward_activations

__all__ = [
    "RECENT",
    "BatchLimit",
    "Job",
    "Key",
    "Noise",
    "Pass",
    "Progress",
    "RecentPasses",
    "Setting",
    "forward_activations",
    "run_together",
]
