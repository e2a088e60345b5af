"""Which layers stand at the end of a network, in the order of execution."""

from __future__ import annotations

from collections.abc import Mapping

from cam_hub.introspection.probe import Finding

__all__ = ["late_layers"]

_TAIL = 0.1
"""The part of the leaves that may run after a layer of the end."""


def late_layers(findings: Mapping[str, Finding]) -> set[str]:
    """Names the layers after which at most a tenth of the leaf modules run.

    A leaf is a module that ran and of which no submodule ran. Those after the last one whose
    output has places (two dimensions besides the batch's that are longer than 1), which stand
    behind the pooling, do not count.

    Args:
        findings: From ``disturb``, in the order in which the layers finished.
    """
    parents: set[str] = set()
    for name in findings:
        while name := name.rpartition(".")[0]:
            parents.add(name)
    leaves = [name for name in findings if name not in parents]
    while leaves and not _has_places(findings[leaves[-1]]):
        leaves.pop()
    counted, after = set(leaves), len(leaves)
    found = set()
    for name in findings:
        after -= name in counted
        if after <= _TAIL * len(leaves):
            found.add(name)
    return found


def _has_places(finding: Finding) -> bool:
    # The first dimension of what does not keep the images apart stands for the batch.
    shape = finding.shape or ()
    return sum(side > 1 for side in (shape if finding.batched else shape[1:])) >= 2
