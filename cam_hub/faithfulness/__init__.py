"""Tests of a map against the model that it explains: tensors and a scoring function, no model.

A map claims that the pixels it marks support a class. Every test here changes the image, has the
model score the result, and compares the answer with baselines on the same image.

| module | one job |
|---|---|
| ``evidence`` | a test's result, the results of all tests, and the verdict |
| ``covering`` | which pixels a map marks, what covers them, and baseline maps |
| ``perturbation`` | cover test, ROAD, deletion and insertion curves |
| ``description`` | focus, pointing game, energy in a box: no pass through the model |
"""

from cam_hub.faithfulness.covering import (
    DEFAULT_SHARE,
    blurred,
    centred_gaussian,
    cover,
    elsewhere,
    hottest,
    mean_colour,
    random_map,
    soft_mask,
)
from cam_hub.faithfulness.description import energy, focus, pointing_game
from cam_hub.faithfulness.evidence import Evidence, EvidenceTest, untested
from cam_hub.faithfulness.perturbation import (
    Scores,
    Subject,
    cover_drops,
    cover_test,
    deletion_insertion,
    road,
)

__all__ = [
    "DEFAULT_SHARE",
    "Evidence",
    "EvidenceTest",
    "Scores",
    "Subject",
    "blurred",
    "centred_gaussian",
    "cover",
    "cover_drops",
    "cover_test",
    "deletion_insertion",
    "elsewhere",
    "energy",
    "focus",
    "hottest",
    "mean_colour",
    "pointing_game",
    "random_map",
    "road",
    "soft_mask",
    "untested",
]
