"""Rollout and CheferCAM by hand: two layers, two heads, a class token and two places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cam_hub.methods import METHODS, BlackBox, chefercam, rollout
from cam_hub.methods.evidence import Attention

EYE = torch.eye(3)


def with_first_row(*row: float) -> Tensor:
    """The identity, with another first row."""
    return torch.tensor([row, [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


MATRICES = [
    torch.stack([EYE, with_first_row(0, 1, 0)]),
    torch.stack([with_first_row(0, 0, 1), EYE]),
]


def only(**values: float) -> Tensor:
    """Zeros but for the named elements of the first row, such as ``a1`` of head a at column 1."""
    found = torch.zeros(1, 2, 3, 3)
    for place, value in values.items():
        found[0, "ab".index(place[0]), 0, int(place[1])] = value
    return found


GRADIENTS = [only(a0=-3, b1=4), only(a2=6, b0=2)]


def box_of(rows: list[list[float]]) -> BlackBox:
    """A network with this attention, whose score reads these rows."""
    read = torch.tensor(rows, dtype=torch.float32)

    def attention(gradients: bool) -> Attention:
        found = GRADIENTS if gradients else []
        return Attention(MATRICES, found, read, lambda values: values[:, None, 1:])

    return BlackBox(torch.zeros(1, 3, 4, 4), lambda images: images, attention=attention)


def test_rollout_multiplies_the_mean_of_heads_and_identity() -> None:
    # A'1 has the first row (.75, .25, 0), A'2 (.75, 0, .25), and R .75 A'1[0] + .25 (0, 0, 1).
    found = rollout(box_of([[1, 0, 0]]))
    torch.testing.assert_close(found, torch.tensor([[[0.1875, 0.25]]]))


def test_rollout_of_a_mean_over_tokens_is_the_mean_of_rows() -> None:
    found = rollout(box_of([[0, 0.5, 0.5]]))
    torch.testing.assert_close(found, torch.tensor([[[0.5, 0.5]]]))
    found = rollout(box_of([[0.5, 0.5, 0]]))
    torch.testing.assert_close(found, torch.tensor([[[(0.1875 + 1) / 2, 0.125]]]))


def test_chefercam_adds_positive_attention_times_gradient() -> None:
    # Ā1[0] = (0, 2, 0), so R1[0] = (1, 2, 0). Ā2[0] = (1, 0, 3), so that
    # R2[0] = (1, 2, 0) + 1 (1, 2, 0) + 3 (0, 0, 1) = (2, 4, 3).
    found = chefercam(box_of([[1, 0, 0]]))
    torch.testing.assert_close(found, torch.tensor([[[4.0, 3.0]]]))


def test_chefercam_of_a_mean_over_tokens_has_no_share_of_the_identity() -> None:
    found = chefercam(box_of([[0.5, 0.5, 0]]))
    torch.testing.assert_close(found, torch.tensor([[[2.0, 1.5]]]))


def test_evidence_against_a_class_weighs_attention_by_the_negated_gradient() -> None:
    # Head a of the first layer alone: Ā1[0] = (1.5, 0, 0), which stays on the class token.
    box = box_of([[1, 0, 0]])
    against = METHODS["chefercam"].signed("against").attribute
    both = METHODS["chefercam"].signed("both").attribute
    assert against is not None
    assert both is not None
    torch.testing.assert_close(against(box), torch.zeros(1, 1, 2))
    torch.testing.assert_close(both(box), torch.tensor([[[4.0, 3.0]]]))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_widened(kind: torch.dtype) -> None:
    box = box_of([[1, 0, 0]])
    attention = box.attention
    assert attention is not None
    given = attention(True)
    matrices = [matrix.to(kind) for matrix in given.matrices]
    gradients = [gradient.to(kind) for gradient in given.gradients]
    wide = torch.promote_types(kind, torch.float32)
    changed = Attention(matrices, gradients, given.rows.to(wide), given.place)
    found = chefercam(BlackBox(box.image, box.score, attention=lambda _: changed))
    torch.testing.assert_close(found, torch.tensor([[[4.0, 3.0]]], dtype=wide))
