"""Methods that follow attention from the output back to the tokens of the input."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_hub.methods.evidence import Attention, BlackBox, as_float
from cam_hub.methods.registry import METHODS, Method, Passes

__all__ = ["chefercam", "rollout"]


def rollout(box: BlackBox) -> Tensor:
    """Attention rollout (Abnar & Zuidema 2020): how far a token's output looks at each token.

    ``R = A'_L ... A'_2 A'_1`` with ``A'_l = (mean over heads of A_l + I) / 2``, in which the
    identity stands for the residual connection. A' has rows that sum to 1, and so has R. The
    map is the row of R that the score reads: that of the class token, if the score depends on its
    output alone, else the mean of the rows of the tokens on which it depends. Tokens without a
    place (class token, registers) are left out.

    The class plays no part.

    Args:
        box: The network.

    Returns:
        M, ``(B, *grid of tokens)``, at least 0.
    """
    attention = _attention(box, gradients=False)
    rows = attention.rows
    for matrix in reversed(attention.matrices):
        mean = as_float(matrix).mean(0)
        rows = rows @ ((mean + _identity(mean)) / 2)
    return attention.place(rows)


def chefercam(box: BlackBox) -> Tensor:
    """Gradient-weighted rollout (Chefer et al. 2021, eqs. 5 and 6, self-attention).

    ``R ← R + Ā_l R`` from ``R = I`` over the layers l, with ``Ā_l = mean over heads of ReLU(∂S/∂A_l
    A_l)``. The map is a row of ``R - I``: which, see ``rollout``. The identity is taken off, as in
    the paper's eq. 8, since it would add a constant where several rows are averaged; the row of a
    class token is the same without it.

    Args:
        box: The network.

    Returns:
        M, ``(B, *grid of tokens)``, at least 0.
    """
    attention = _attention(box, gradients=True)
    rows = attention.rows
    found = torch.zeros_like(rows)  # a row of R - I, with R = (I + Ā_L) … (I + Ā_1)
    for matrix, gradient in zip(
        reversed(attention.matrices), reversed(attention.gradients), strict=True
    ):
        weighted = torch.relu(as_float(gradient) * as_float(matrix)).mean(1)
        found = found + ((rows + found)[:, None] @ weighted)[:, 0]
    return attention.place(found)


def _attention(box: BlackBox, *, gradients: bool) -> Attention:
    if box.attention is None:
        raise AssertionError("not called without attention")
    return box.attention(gradients)


def _identity(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


METHODS.register(
    Method(
        name="rollout",
        title="Rollout",
        paper="Abnar & Zuidema 2020. Quantifying Attention Flow in Transformers. ACL.",
        url="https://arxiv.org/abs/2005.00928",
        attribute=rollout,
        summary=(
            "Attention followed through all layers of a transformer to the tokens of the input: "
            "where the network looks, whatever the class."
        ),
        level="pixel",
        passes=Passes(3, 1),
        class_specific=False,
    )
)

METHODS.register(
    Method(
        name="chefercam",
        title="CheferCAM",
        paper=(
            "Chefer, Gur & Wolf 2021. Generic Attention-model Explainability for Interpreting "
            "Bi-Modal and Encoder-Decoder Transformers. ICCV."
        ),
        url="https://arxiv.org/abs/2103.15679",
        attribute=chefercam,
        summary=(
            "Attention weighted by its gradient and followed through all layers of a transformer "
            "to the tokens of the input: where the network looks for the class."
        ),
        level="pixel",
        passes=Passes(3, 1),
    )
)
