"""Passes through a network and back: what target layers did, and what the scores make of it.

| module | one job |
|---|---|
| ``job`` | the input of a pass: model, image, layers, target; noisy copies; rows of a batch |
| ``forward`` | a batch through the network, back for each class, and maps of the gradients |
| ``runner`` | whole passes, of one picture or several: chunks, classes, short memory |
| ``black_box`` | maps of methods that make passes of their own |
| ``pass_cache`` | recent passes, so that nothing is computed twice |
"""

from cam_hub.attribution.passes.job import Job, Key, Noise, Pass, Progress, Setting
from cam_hub.attribution.passes.pass_cache import RECENT, RecentPasses
from cam_hub.attribution.passes.runner import BatchLimit, run, run_together

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
    "run",
    "run_together",
]
