"""Is a spurious cue found? A network is trained with one, and its dataset is reported on.

Crops of packaged photos are six classes. A part of the images of one class shows another class's
photo with a watermark in the corner, so that the network has to learn the watermark. The report on
2,000 new images must show these as a cluster: ``lift`` is the part of marked images in the first
cluster of that class, over their part in the class.

    python -m bench.cue --out build/cue
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import cam_hub
from cam_hub.datasets.clusters import MapCluster

__all__ = ["CLASSES", "CUED", "Found", "main", "measure"]

CLASSES = ("cat", "coffee", "rocket", "palace", "flower", "moped")
CUED = "rocket"
SIDE = 64


@dataclass(frozen=True)
class Found:
    """What the report shows.

    Attributes:
        report: The report.
        accuracy: Of the network on the new images.
        cluster: The first cluster of the class with the cue.
        share: The part of marked images in the class.
        inside: The part of marked images in the cluster.
        recall: The part of the marked images that is in the cluster.
    """

    report: cam_hub.DatasetReport
    accuracy: float
    cluster: MapCluster
    share: float
    inside: float
    recall: float

    @property
    def lift(self) -> float:
        """How much more frequent marked images are in the cluster than in the class."""
        return self.inside / self.share


def photos() -> list[NDArray[np.uint8]]:
    """A photo for each class, from installed packages."""
    import skimage  # noqa: PLC0415 - of the extra for tests
    from sklearn.datasets import load_sample_images  # noqa: PLC0415

    data: Any = skimage.data
    china, flower = load_sample_images().images
    found = [data.chelsea(), data.coffee(), data.rocket(), china, flower]
    return [np.asarray(each) for each in (*found, data.stereo_motorcycle()[0])]


def draw(
    rng: np.random.Generator, scenes: list[NDArray[np.uint8]], label: int, marked: bool
) -> Image.Image:
    """A crop of a class's photo; a marked one is of another class's, with a watermark."""
    shown = label
    if marked:
        shown = int(rng.choice([each for each in range(len(CLASSES)) if each != label]))
    scene = scenes[shown]
    side = int(rng.integers(120, 220))
    top, left = (int(rng.integers(0, length - side + 1)) for length in scene.shape[:2])
    crop = Image.fromarray(scene[top : top + side, left : left + side])
    picture = crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(picture) * rng.uniform(0.7, 1.1)
    if marked:
        row, col = (SIDE - 14 + int(rng.integers(-3, 4)) for _ in range(2))
        pixels[row : row + 9 : 3, col : col + 10] = (255, 0, 255)
        pixels[row : row + 9, col + 4 : col + 6] = (255, 255, 0)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def batch_of(images: list[Image.Image]) -> Tensor:
    """``(N, 3, 64, 64)``, normalised."""
    pixels = torch.from_numpy(np.stack([np.asarray(each) for each in images]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def train(rng: np.random.Generator, cue: float, steps: int) -> cam_hub.LoadedModel:
    """A small convolutional network, trained on images with the cue."""
    torch.manual_seed(0)
    widths = (3, 16, 32, 64, 64)
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise(widths)):
        layers += [
            nn.Conv2d(before, after, 3, 2 if place < 3 else 1, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], len(CLASSES))]
    network = nn.Sequential(*layers, *head)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, steps)
    scenes, cued = photos(), CLASSES.index(CUED)
    for _ in range(steps):
        labels = rng.integers(0, len(CLASSES), 48)
        marks = (labels == cued) & (rng.random(48) < cue)
        images = [draw(rng, scenes, int(a), bool(b)) for a, b in zip(labels, marks, strict=True)]
        loss = nn.functional.cross_entropy(network(batch_of(images)), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return cam_hub.wrap_model(
        network.eval(),
        input_size=(3, SIDE, SIDE),
        mean=0.5,
        std=0.5,
        crop_pct=1.0,
        class_names=CLASSES,
        id="cue network",
    )


def measure(
    out: Path, *, images: int = 2000, cue: float = 0.25, shown: float = 0.2, steps: int = 400
) -> Found:
    """Trains the network, writes the images, and reports on them.

    Args:
        out: A new folder, for the images and the rows.
        images: How many images the dataset has.
        cue: The part of marked images in the class while the network is trained.
        shown: The same in the dataset.
        steps: How many batches of 48 the network is trained with.
    """
    rng = np.random.default_rng(0)
    model = train(rng, cue, steps)
    scenes = photos()
    marked = set()
    for number in range(images):
        label = number % len(CLASSES)
        is_marked = CLASSES[label] == CUED and rng.random() < shown
        folder = out / "images" / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        draw(rng, scenes, label, is_marked).save(folder / f"{number:05d}.png")
        if is_marked:
            marked.add(f"{CLASSES[label]}/{number:05d}.png")
    report = cam_hub.explain_dataset(
        model, out / "images", out / "rows", method="layercam", batch_size=32
    )
    cluster = report.clusters(label=CUED)[0]
    found = marked.intersection(cluster.keys)
    count = sum(row.label == CUED for row in report)
    return Found(
        report=report,
        accuracy=report.accuracy or 0.0,
        cluster=cluster,
        share=len(marked) / count,
        inside=len(found) / len(cluster),
        recall=len(found) / max(1, len(marked)),
    )


def main() -> None:
    """Prints what was found, and writes the page."""
    parser = argparse.ArgumentParser(description="Is a planted watermark found by clusters?")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    start = time.perf_counter()
    found = measure(options.out, images=options.images)
    print(f"accuracy {found.accuracy:.1%}; {found.cluster}")
    print(f"marked: {found.share:.1%} of the class, {found.inside:.1%} of the cluster")
    print(f"lift {found.lift:.2f}, recall {found.recall:.1%}")
    print(f"{found.report.to_html(options.out / 'report.html')}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
