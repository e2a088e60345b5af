"""Clusters of the maps within a class: groups that are there are found, and none are made up."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cam_hub import errors, explain_dataset
from cam_hub.datasets import clusters
from cam_hub.datasets.clusters import GRID, cluster_maps, heat_shares
from tests.datasets.test_report import spot
from tests.fakes.tiny_datasets import colours


def maps_at(rng, centre, count, jitter=1.0):
    """Maps with a blob around a place, with noise."""
    found = []
    for _ in range(count):
        row, col = rng.normal(centre, jitter)
        y, x = np.mgrid[:GRID, :GRID]
        blob = np.exp(-((y - row) ** 2 + (x - col) ** 2) / 8) + rng.uniform(0, 0.05, (GRID, GRID))
        found.append(heat_shares(blob))
    return found


@pytest.fixture(params=["spectral", "k-means"])
def algorithm(request, monkeypatch):
    if request.param == "k-means":
        monkeypatch.setattr(clusters, "_MAX_SPECTRAL", 10)


@pytest.mark.parametrize("cue", [0.05, 0.2, 0.45])
def test_a_planted_group_comes_first(algorithm, cue):
    rng = np.random.default_rng(0)
    planted = round(200 * cue)
    maps = np.stack(maps_at(rng, (6, 6), 200 - planted, 1.5) + maps_at(rng, (12, 12), planted))
    keys = [f"{'cue' if n >= 200 - planted else 'plain'} {n}" for n in range(200)]
    correct = [n % 2 == 0 for n in range(200 - planted)] + [True] * planted
    found = cluster_maps("cat", keys, maps, correct)
    assert sum(map(len, found)) == 200
    best = found[0]
    share = sum(key.startswith("cue") for key in best.keys) / len(best)
    assert share >= 0.9
    assert len(best) >= 0.9 * planted
    assert best.medoid.startswith("cue")
    assert best.error_rate < best.class_error_rate
    assert best.silhouette > 0.5
    assert best.distance > 0.5
    assert best.mean_map.sum() == pytest.approx(1)
    row, col = np.unravel_index(best.mean_map.argmax(), (GRID, GRID))
    assert min(row, col) >= 10


def test_maps_without_groups_are_not_distinct(algorithm):
    rng = np.random.default_rng(1)
    for jitter in (0.3, 2.0):
        maps = np.stack(maps_at(rng, (6, 7), 150, jitter))
        found = cluster_maps("cat", list(map(str, range(150))), maps, [None] * 150)
        assert max(each.silhouette for each in found) < 0.4
        assert {each.error_rate for each in found} == {None}


def test_equal_maps_and_few_maps_are_one_cluster():
    maps = np.stack([heat_shares(np.eye(GRID))] * 20)
    (found,) = cluster_maps("cat", list("abcdefghijklmnopqrst"), maps, [True] * 20)
    assert (found.share, found.distance, found.silhouette, found.medoid) == (1, 0, 0, "a")
    assert len(cluster_maps("cat", ["a", "b"], maps[:2], [True, False])) == 1
    assert len(cluster_maps("cat", ["a"], maps[:1], [True], 3)) == 1


def test_a_reports_clusters_with_their_error_rates(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    rows = []
    for number in range(40):
        cue = number % 5 == 0
        place = (3, 3) if cue else (int(rng.integers(2)), int(rng.integers(2)))
        wrong = not cue and number % 3 == 0
        picture = spot(1 if wrong else 0, *place, light=150 + number)
        rows.append({"key": f"{'cue' if cue else 'plain'} {number}", "image": picture,
                     "label": "red"})  # fmt: skip
    rows += [{"key": f"b{n}", "image": spot(2, 1, 1), "label": "blue"} for n in range(12)]
    report = explain_dataset(
        colours(), rows, tmp_path / "out", method="layercam", target_layers="act"
    )
    found = report.clusters(count=5, label="red")
    group = next(each for each in found if each.medoid.startswith("cue"))
    assert all(key.startswith("cue") for key in group.keys)
    assert (len(group), group.share, group.error_rate) == (8, 0.2, 0)
    assert group.class_error_rate == pytest.approx(11 / 40)
    assert report.clusters()[0].label == "red"
    distances = [each.distance for each in report.clusters()]
    assert distances == sorted(distances, reverse=True)
    assert [len(each) for each in report.clusters() if each.label == "blue"] == [12]
    with pytest.raises(errors.InvalidArgument):
        report.clusters(label="green")
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(errors.PackageMissing, match="sklearn"):
        report.clusters()


@pytest.mark.slow
def test_a_watermark_that_a_network_has_learnt_is_found(tmp_path):
    from bench.cue import measure

    found = measure(tmp_path, images=600)
    assert found.accuracy > 0.95
    assert found.lift >= 3
    assert found.recall >= 0.8
