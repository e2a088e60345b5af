"""Ways through a network and back: what target layers did, and what the scores make of it.

| module | its one job |
|---|---|
| ``noise`` | noisy copies of an input |
| ``trace`` | some images through the network, with the way back still open |
| ``saved`` | what a graph keeps for the way back |
| ``gathering`` | from gradients, layer by layer as they come, to maps |
| ``job`` | what a pass is to find out, and what it brings back |
| ``rows`` | the images of a job as rows of a batch |
| ``running`` | one whole pass: traces of chunks, classes, layers, methods |
| ``together`` | several pictures through the network and back in the same chunks |
| ``identity`` | whether it is still the same network, and the same input |
| ``kept`` | what is kept of one picture |
| ``recent`` | passes that are kept, so that nothing is computed twice |
"""

from cam_hub.attribution.passes.job import Job, Pass, Progress
from cam_hub.attribution.passes.noise import Noise
from cam_hub.attribution.passes.recent import RECENT, RecentPasses
from cam_hub.attribution.passes.running import forward_activations
from cam_hub.attribution.passes.together import Room, run_together
from cam_hub.attribution.passes.trace import Setting

__all__ = [
    "RECENT",
    "Job",
    "Noise",
    "Pass",
    "Progress",
    "RecentPasses",
    "Room",
    "Setting",
    "forward_activations",
    "run_together",
]
