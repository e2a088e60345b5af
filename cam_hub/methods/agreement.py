"""How far noise decides about a map: the correlation that two seeds can be expected to have."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_hub.methods.arithmetic import as_float

__all__ = ["agreement"]

# Where a map is flat but for so many roundings, these must not pass for a pattern.
_FLAT_ROUNDINGS = 8


def agreement(maps: Tensor) -> float:
    """The correlation that maps of other noise can be expected to have, by the jackknife.

    The noisy copies of an image form G groups, and each map is made without one of them. If a
    group's noise adds the variance a to a map of variance 1, a map of G - 1 groups has the variance
    1 + a / (G - 1), and two of them share G - 2 groups, so that they correlate at
    (1 + a (G - 2) / (G - 1)²) / (1 + a / (G - 1)). That gives a; maps of all groups, out of two
    seeds, then correlate at 1 / (1 + a / G). Of two groups it is the formula of Spearman and Brown.

    Args:
        maps: ``(G, *grid)``, G at least 2: the map without the first group, and so on.

    Returns:
        A number in [0, 1]: 1 where no group changes the map, or all maps are flat; 0 where they
        have no more in common than the groups that they share, or a value is not finite.
    """
    values = as_float(maps).flatten(1).cpu().double()
    groups = len(values)
    span = values.amax(dim=1) - values.amin(dim=1)
    smallest = _FLAT_ROUNDINGS * torch.finfo(torch.float32).eps * values.abs().amax(dim=1)
    blank = (span <= smallest) & span.isfinite()
    values = values - values.mean(dim=1, keepdim=True)
    norms = values.norm(dim=1, keepdim=True)
    units = values / norms.masked_fill(blank[:, None], 1.0)
    units[blank] = 0.0
    pairs = units @ units.T + (blank[:, None] & blank).to(units)
    others = groups - 1
    mean = (float(pairs.sum()) - float(pairs.diagonal().sum())) / (groups * others)
    own = mean / others - (groups - 2) / others**2
    if not own > 0:
        return 0.0
    variance = max(0.0, 1 - mean) / own
    return 1 / (1 + variance / groups)
