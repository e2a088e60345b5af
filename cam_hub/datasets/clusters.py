"""Clusters of the maps within a class: candidates for spurious cues.

If a network recognises some images of a class by a watermark in the corner, the maps of these
images are alike and unlike those of the others. Clusters of maps show such groups without a look at
every image (spectral relevance analysis, Lapuschkin et al. 2019, Nature Communications).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cam_hub.datasets.rows import require
from cam_hub.results.maps import Map

__all__ = ["GRID", "MIN_IMAGES", "MapCluster", "cluster_maps", "heat_shares"]

GRID: Final = 14
"""Maps are compared on so many rows and columns."""

MIN_IMAGES: Final = 8
"""A class with fewer images has one cluster."""

_MAX_COUNT = 6  # clusters of a class
_MAX_SPECTRAL = 3000  # images; beyond, the matrix of their distances takes too long
_SAMPLE = 2000  # images that silhouettes and medoids are computed with
_NEIGHBOURS = 7  # as in Zelnik-Manor and Perona 2004, Self-Tuning Spectral Clustering


@dataclass(frozen=True)
class MapCluster:
    """Images of one class whose maps are alike.

    Attributes:
        label: The class.
        keys: The images, the most typical first.
        share: Their part of the images of the class.
        error_rate: The part of them whose label was not predicted; None if no label is known.
        class_error_rate: The same for all images of the class.
        silhouette: How distinct they are from the nearest other cluster, from -1 to 1. Clusters
            that only divide maps of all places reach 0.4; a group of its own has 0.5 and more.
        distance: How far their mean map is from that of the rest of the class: the Hellinger
            distance of the two distributions of heat, from 0 (equal) to 1 (no place in common).
        mean_map: Their mean map on the model's input, float32 ``(14, 14)``; it sums to 1.
    """

    label: str
    keys: tuple[str, ...] = field(repr=False)
    share: float
    error_rate: float | None
    class_error_rate: float | None
    silhouette: float
    distance: float
    mean_map: Map = field(repr=False)

    @property
    def medoid(self) -> str:
        """The most typical image: that with the least sum of distances to the others."""
        return self.keys[0]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.keys)

    def order(self) -> tuple[float, int]:
        """Sorts the farthest from the rest of their class first, of equal ones the smaller.

        Two clusters of one class are equally far from each other.
        """
        return -round(self.distance, 3), len(self)


def heat_shares(heat: NDArray[np.float64]) -> NDArray[np.float32]:
    """A map as the square roots of its shares of heat, whose distances are those of Hellinger.

    Args:
        heat: ``(rows, cols)``, at least 0 and not all 0.

    Returns:
        Float32 ``(rows * cols,)`` of length 1.
    """
    shares: NDArray[np.float32] = np.sqrt(heat / heat.sum()).astype(np.float32)
    return shares.ravel()


def cluster_maps(
    label: str,
    keys: Sequence[str],
    maps: NDArray[np.float32],
    correct: Sequence[bool | None],
    count: int | None = None,
) -> list[MapCluster]:
    """The clusters of the maps of one class.

    Args:
        label: The class.
        keys: The images.
        maps: ``(images, 14 * 14)`` from ``heat_shares``.
        correct: Whether the label of each was predicted; None where it is unknown.
        count: Number of clusters; None for the number from 2 to 6 with the highest mean silhouette.
            There are fewer of maps that are equal, and there is one of fewer than ``MIN_IMAGES``.

    Returns:
        The clusters, the one that is farthest from the rest of the class first; of two the smaller.

    Raises:
        PackageMissing: If scikit-learn is not installed.
    """
    numbers = range(2, _MAX_COUNT + 1) if count is None else [count]
    candidates = [_clustered(maps, each) for each in (numbers if len(maps) >= MIN_IMAGES else [1])]
    judged = [(_silhouettes(maps, each), each) for each in candidates]
    silhouettes, groups = max(judged, key=lambda each: _mean_silhouette(*each))
    overall = _error_rate(correct)
    found = []
    for group, silhouette in enumerate(silhouettes):
        members = np.flatnonzero(groups == group)
        inside, outside = maps[members], maps[groups != group]
        mean = _mean(inside)
        order = members[np.argsort(_sums_of_distances(inside), kind="stable")]
        distance = 0.0
        if len(outside):
            overlap = float(np.sqrt(mean * _mean(outside)).sum())
            distance = float(np.sqrt(max(0.0, 1 - overlap)))
        found.append(
            MapCluster(
                label,
                tuple(keys[place] for place in order.tolist()),
                len(members) / len(keys),
                _error_rate([correct[place] for place in members.tolist()]),
                overall,
                silhouette,
                distance,
                mean.reshape(GRID, GRID).astype(np.float32),
            )
        )
    return sorted(found, key=MapCluster.order)


def _mean(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    shares = (maps.astype(np.float64) ** 2).mean(axis=0)
    found: NDArray[np.float64] = shares / shares.sum()
    return found


def _sums_of_distances(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sum of each map's distances to all others; of very many, to a sample of them."""
    sample = maps[:: -(-len(maps) // _SAMPLE)].astype(np.float64)
    sums = [
        np.sqrt(np.clip(1 - block.astype(np.float64) @ sample.T, 0, None)).sum(axis=1)
        for block in np.array_split(maps, -(-len(maps) // 1000))
    ]
    return np.concatenate(sums)


def _error_rate(correct: Sequence[bool | None]) -> float | None:
    known = [each for each in correct if each is not None]
    return 1 - sum(known) / len(known) if known else None


def _mean_silhouette(silhouettes: Sequence[float], groups: NDArray[np.intp]) -> float:
    """The mean over all images."""
    return float(np.average(silhouettes, weights=np.bincount(groups)))


def _silhouettes(maps: NDArray[np.float32], groups: NDArray[np.intp]) -> list[float]:
    """The mean silhouette of each cluster; of very many images, of a sample of each cluster."""
    count = int(groups.max()) + 1
    if count < 2:
        return [0.0]
    per_group = max(2, _SAMPLE // count)
    chosen = np.concatenate(
        [
            members[:: -(-len(members) // per_group)]
            for members in (np.flatnonzero(groups == group) for group in range(count))
        ]
    )
    values = np.zeros(len(chosen))
    if len(chosen) > count:  # else each cluster is a single image
        values = require("sklearn.metrics").silhouette_samples(maps[chosen], groups[chosen])
    return [float(values[groups[chosen] == group].mean()) for group in range(count)]


def _clustered(maps: NDArray[np.float32], number: int) -> NDArray[np.intp]:
    """So many clusters, numbered without gaps; by spectral clustering of up to 3,000 maps."""
    number = min(number, len(np.unique(maps.round(5), axis=0)))
    if number < 2:
        return np.zeros(len(maps), np.intp)
    cluster = require("sklearn.cluster")
    if len(maps) <= _MAX_SPECTRAL:
        distances = np.clip(2 - 2 * maps.astype(np.float64) @ maps.T, 0, None)
        # Dense and sparse groups alike: each map has a scale of its own.
        near = np.sqrt(np.sort(distances, axis=1)[:, min(_NEIGHBOURS, len(maps) - 1)]) + 1e-3
        affinity = np.exp(-distances / np.outer(near, near)) + 1e-9  # one connected graph
        made: Any = cluster.SpectralClustering(
            number, affinity="precomputed", assign_labels="cluster_qr", random_state=0
        )
        groups = made.fit_predict(affinity)
    else:
        made = cluster.MiniBatchKMeans(number, batch_size=1024, n_init=5, random_state=0)
        groups = made.fit_predict(maps)
    return np.unique(groups, return_inverse=True)[1].astype(np.intp)
