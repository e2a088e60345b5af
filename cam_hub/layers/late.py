"""Which layers stand at the end of a network, in the order of execution."""

from __future__ import annotations

from collections.abc import Container, Mapping

from cam_hub.layers.probe import Finding

__all__ = ["late_layers", "unread_after"]

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
    leaves = _leaves_before_pooling(findings)
    counted, after = set(leaves), len(leaves)
    found = set()
    for name in findings:
        after -= name in counted
        if after <= _TAIL * len(leaves):
            found.add(name)
    return found


def unread_after(
    name: str, findings: Mapping[str, Finding], readable: Container[str]
) -> tuple[list[str], int]:
    """Looks whether a layer is the deepest only because most of what follows could not be read.

    Args:
        name: The layer.
        findings: From ``disturb``, in the order in which the layers finished.
        readable: The layers of which it is known how they lie on the image.

    Returns:
        The leaves after it that have places but could not be read, and how many leaves run after
        it before pooling. None are named where the layer stands at the end, or where most of what
        follows could be read (but is not asked for as a whole, or has no evidence).
    """
    if name in late_layers(findings):
        return [], 0
    order = {other: place for place, other in enumerate(findings)}
    after = [leaf for leaf in _leaves_before_pooling(findings) if order[leaf] > order[name]]
    unread = [leaf for leaf in after if leaf not in readable and _has_places(findings[leaf])]
    return (unread, len(after)) if 2 * len(unread) > len(after) else ([], len(after))


def _leaves_before_pooling(findings: Mapping[str, Finding]) -> list[str]:
    parents: set[str] = set()
    for name in findings:
        while name := name.rpartition(".")[0]:
            parents.add(name)
    leaves = [name for name in findings if name not in parents]
    while leaves and not _has_places(findings[leaves[-1]]):
        leaves.pop()
    return leaves


def _has_places(finding: Finding) -> bool:
    # The first dimension of what does not keep the images apart stands for the batch.
    shape = finding.shape or ()
    return sum(side > 1 for side in (shape if finding.batched else shape[1:])) >= 2
