"""Small networks for the tests of the sweep's checks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALL = (3, 32, 48)


class Block(nn.Module):
    """Six leaves and a residual block in a network of our own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.mix, self.act = nn.Identity(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.norm2, self.fc, self.drop = nn.Identity(), nn.Conv2d(8, 8, 1), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.act(self.mix(self.norm1(x)))
        return x + self.drop(self.fc(self.norm2(x)))


class Net(nn.Module):
    """A stem, equal blocks, a final norm, pooling and a head."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.Sequential(*[Block() for _ in range(blocks)])
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(x)))
        return self.head(self.pool(x).flatten(1))


class Mirrored(nn.Module):
    """Flips its input vertically: the top of the input affects the bottom of the output."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(2)
