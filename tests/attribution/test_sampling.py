"""Adaptive sampling: the number of noisy copies for a stable map, and its report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import cam_hub
from cam_hub import Explanation
from cam_hub.attribution import result
from cam_hub.attribution.passes.forward import Accumulator
from cam_hub.attribution.result import MOST_SAMPLES, STEADY, WANTED, more_samples
from cam_hub.methods import METHODS, Moments, MomentSum
from cam_hub.methods.evidence import agreement
from space.components.formatting import summary

# By name: the choice by evidence makes passes of its own.
explain = partial(cam_hub.explain, method="smoothgradcampp")

UNSTEADY = "blocks.5.0"
"""The end of a block of the embedded model, at which four copies of the cat give an unstable
map."""


# --- By hand ------------------------------------------------------------------------------------


def test_each_group_of_copies_is_left_out_once() -> None:
    # g = 1, 2, 3: without 1 the means are 2.5, 6.5, 17.5; without 2: 2, 5, 14; without 3: 1.5 …
    total = MomentSum()
    total.add(torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1))
    without = list(total.without_each())
    assert [each.first.item() for each in without] == [2.5, 2.0, 1.5]
    assert [each.second.item() for each in without] == [6.5, 5.0, 2.5]
    assert [each.third.item() for each in without] == [17.5, 14.0, 4.5]
    assert total.mean().third.item() == 12.0


def test_every_fourth_copy_is_of_one_group() -> None:
    # g = 0 … 5, sum 15: the groups are 0 and 4, 1 and 5, 2, 3.
    total = MomentSum()
    total.add(torch.arange(6.0).reshape(6, 1, 1, 1))
    without = [each.first.item() for each in total.without_each()]
    assert without == pytest.approx([11 / 4, 9 / 4, 13 / 5, 12 / 5])


def test_a_single_copy_has_nothing_to_be_compared_with() -> None:
    total = MomentSum()
    assert list(total.without_each()) == []
    total.add(torch.ones(1, 1, 1, 1))
    assert list(total.without_each()) == []


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4], [0, 5, 0, 2]], ids=str)
def test_how_copies_are_cut_into_chunks_does_not_change_a_group(sizes: list[int]) -> None:
    gradients = torch.randn(7, 1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    total, whole = MomentSum(), MomentSum()
    whole.add(gradients)
    for chunk in gradients.split(sizes):
        total.add(chunk)
    found, expected = list(total.without_each()), list(whole.without_each())
    assert len(found) == len(expected) == 4
    assert all(torch.equal(a.third, b.third) for a, b in zip(found, expected, strict=True))
    others = Moments.of(torch.cat([gradients[1:4], gradients[5:]]))  # without copies 0 and 4
    torch.testing.assert_close(found[0].third, others.third, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([[0.0, 1.0, 2.0], [1.0, 5.0, 9.0]], 1.0),  # scale and shift do not matter
        # (1, 1, 0, 0) and (1, 0, 1, 0) are uncorrelated: the copies have nothing in common.
        ([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]], 0.0),
        # (2, 1, 0) and (1, 2, 0) minus their means, (1, 0, -1) and (0, 1, -1), have correlation
        # 1/2, so a copy adds as much as there is, and means of two correlate at 1/(1 + 1/2).
        ([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]], 2 / 3),
        # The map of a group is its own unit vector e, and the map without it the sum of the
        # others': for three groups, two such sums share one e. Nothing but the shared groups
        # agrees.
        ([[0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
          [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], 0.0),
        ([[0.0, 0.0], [0.0, 0.0]], 1.0),  # all are blank
        ([[3.0, 3.0], [3.0, 3.0]], 1.0),
        ([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 0.0),  # one is blank
        ([[0.0, 1.0, 2.0], [0.0, 1.0, math.inf]], 0.0),
    ],
)  # fmt: skip
def test_agreement_is_what_another_seed_can_be_expected_to_have(
    maps: list[list[float]], expected: float
) -> None:
    assert agreement(torch.tensor(maps)) == pytest.approx(expected)


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_agreement_predicts_the_correlation_of_two_seeds(noise: float) -> None:
    # Maps that are means of four noisy ones with unit variance: the oracle is 1/(1 + noise/4).
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(20_000, generator=generator)
    copies = signal + math.sqrt(noise) * torch.randn(4, 20_000, generator=generator)
    other = signal + math.sqrt(noise / 4) * torch.randn(20_000, generator=generator)
    found = agreement((copies.sum(0) - copies) / 3)
    assert found == pytest.approx(1 / (1 + noise / 4), abs=2e-3)
    seen = float(torch.corrcoef(torch.stack([copies.mean(0), other]))[0, 1])
    assert found == pytest.approx(seen, abs=2e-3)


def test_the_agreement_of_a_layer_is_that_of_its_maps() -> None:
    # Channel 1 activates the first of four cells, channel 2 the second, channel 3 both. Without the
    # first copy, channels 2 and 3 have a weight w; without the second, 1 and 3.
    activation = torch.tensor([[[1.0, 0.0, 0, 0], [0.0, 1.0, 0, 0], [1.0, 1.0, 0, 0]]])
    clean = torch.ones_like(activation)
    first, second = torch.zeros_like(clean), torch.zeros_like(clean)
    first[0, [0, 2]] = second[0, [1, 2]] = 1.0
    accumulator = Accumulator([METHODS["smoothgradcampp"]], samples=2)
    accumulator.take(
        0, "layer", activation[:, :, None], torch.cat([clean, first, second])[:, :, None]
    )
    # α = 1/(2 + ΣA): 1/3 for channels 1 and 2, 1/4 for 3; w = 4/3 and 1. So the maps are
    # (1, 1 + 4/3, 0, 0) and (1 + 4/3, 1, 0, 0), whatever their order.
    expected = agreement(torch.tensor([[3.0, 7.0, 0, 0], [7.0, 3.0, 0, 0]]))
    assert accumulator.agreements["smoothgradcampp", 0, "layer"] == pytest.approx(expected)
    assert 0 < expected < 1


@pytest.mark.parametrize(
    ("samples", "agreement", "expected"),
    [
        (4, 0.993, 8),  # (1/.993 - 1) / (1/.996 - 1) = 1.8 times as many, so twice
        (4, 0.99, 16),  # 2.5 times
        (4, 0.98, 32),  # 5.1 times
        (4, 0.0, MOST_SAMPLES),
        (4, -0.5, MOST_SAMPLES),
        (40, 0.99, MOST_SAMPLES),  # never more than the maximum
        (MOST_SAMPLES, 0.5, MOST_SAMPLES),
        (100, 0.5, 100),
    ],
)
def test_more_copies_are_taken_the_more_they_differ(
    samples: int, agreement: float, expected: int
) -> None:
    assert more_samples(samples, agreement) == expected


# --- On the embedded model ----------------------------------------------------------------------


@contextmanager
def counted(model: cam_hub.LoadedModel, photo: Image.Image) -> Iterator[list[int]]:
    """The sizes of the batches that pass a model, once its layers are known."""
    explain(model, photo, reuse=False)
    sizes: list[int] = []
    hook = model.module.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    try:
        yield sizes
    finally:
        hook.remove()


@dataclass(frozen=True)
class Unsteady:
    """An explanation that needs more copies than were asked for.

    Attributes:
        found: The explanation.
        sizes: The sizes of the batches that passed the model.
        told: The progress that it reported.
    """

    found: Explanation
    sizes: list[int]
    told: list[float]


@pytest.fixture(scope="module")
def unsteady(lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image]) -> Unsteady:
    told: list[float] = []
    with counted(lite0, photos["cat"]) as sizes:
        found = explain(
            lite0,
            photos["cat"],
            target_layers=UNSTEADY,
            reuse=False,
            progress=lambda part, what: told.append(part),
        )
    return Unsteady(found, sizes, told)


def copies(found: Explanation) -> dict[tuple[int, str], int]:
    """The number of noisy copies of each map, by class index and layer."""
    return {
        (entry["class_index"], entry["layer"]): entry["num_samples"]
        for entry in found.manifest["maps"]
    }


def test_a_map_that_no_seed_changes_costs_as_many_passes_as_asked_for(
    lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image]
) -> None:
    with counted(lite0, photos["cat"]) as sizes:
        found = explain(lite0, photos["cat"], reuse=False)
    assert sum(sizes) == 5
    assert set(copies(found).values()) == {4}
    assert found.manifest["agreement"] == {found.layers[0]: 1.0}
    assert "layer_notes" not in found.manifest


def test_where_copies_differ_more_are_taken_and_counted(unsteady: Unsteady) -> None:
    found, sizes = unsteady.found, unsteady.sizes
    (taken,) = copies(found).values()
    assert found.manifest["parameters"]["num_samples"] == 4
    assert 4 < taken <= MOST_SAMPLES
    assert found.manifest["agreement"][UNSTEADY] >= WANTED
    # The first attempts and the last one, each with the clean image.
    assert sum(sizes) in {5 + 1 + taken, 5 + 9 + 1 + taken, 5 + 17 + 1 + taken}


def test_the_map_is_the_one_of_that_number(
    lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image], unsteady: Unsteady
) -> None:
    found = unsteady.found
    (taken,) = copies(found).values()
    asked = {"target_layers": UNSTEADY, "num_samples": taken, "sampling": "fixed"}
    alone = explain(lite0, photos["cat"], **asked, reuse=False)
    again = cam_hub.reproduce(found.manifest, photos["cat"], model=lite0)
    named = {"method": "smoothgradcampp", "target_layers": UNSTEADY}
    (many,) = cam_hub.explain_many(lite0, [photos["cat"]], **named)
    for other in (alone, again, many.explanation):
        assert np.array_equal(other.cam(), found.cam())
        assert copies(other) == copies(found)
    for other in (again, many.explanation):
        assert other.manifest == found.manifest


def test_an_older_manifest_contains_the_number_of_copies(
    lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image]
) -> None:
    found = explain(lite0, photos["cat"], target_layers=UNSTEADY, sampling="fixed")
    manifest = found.manifest
    older = {**manifest, "options": {k: v for k, v in manifest["options"].items()
                                     if k != "sampling"}}  # fmt: skip
    again = cam_hub.reproduce(older, photos["cat"], model=lite0)
    assert np.array_equal(again.cam(), found.cam())


@pytest.mark.slow
def test_a_map_does_not_depend_on_the_rest_of_the_request(
    lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image]
) -> None:
    layers, classes = ["bn2", UNSTEADY], [285, 281]
    together = explain(lite0, photos["cat"], target_layers=layers, classes=classes, reuse=False)
    assert len(set(copies(together).values())) > 1  # they need different numbers
    for key, cam in together.cams.items():
        index, layer = key
        alone = explain(lite0, photos["cat"], target_layers=layer, classes=index, reuse=False)
        assert copies(alone) == {key: copies(together)[key]}
        assert np.array_equal(alone.cams[key], cam)


@pytest.mark.slow
def test_sums_that_do_not_fit_into_memory_are_made_in_several_passes(
    lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"target_layers": UNSTEADY, "classes": [285, 281], "reuse": False}
    whole = explain(lite0, photos["cat"], **asked)
    monkeypatch.setattr(result, "_LARGEST", 1)
    with counted(lite0, photos["cat"]) as sizes:
        parts = explain(lite0, photos["cat"], **asked)
    assert sum(sizes) >= 5 + 2 * 9  # a separate pass for every class
    assert copies(parts) == copies(whole)
    for key, cam in whole.cams.items():
        assert np.array_equal(parts.cams[key], cam)


@pytest.mark.slow
def test_two_seeds_agree_at_blocks_of_every_depth(
    lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image]
) -> None:
    blocks = ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", UNSTEADY, "blocks.6"]
    one, other = (
        explain(lite0, photos["espresso"], target_layers=blocks, seed=seed) for seed in (2, 3)
    )
    for key, cam in one.cams.items():
        assert np.corrcoef(cam.ravel(), other.cams[key].ravel())[0, 1] >= 0.97
    assert not np.array_equal(one.cam(layer=UNSTEADY), other.cam(layer=UNSTEADY))


def test_a_fixed_number_is_kept_to_and_the_result_states_how_far_it_depends_on_noise(
    lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image]
) -> None:
    asked = {"target_layers": [UNSTEADY, "bn2"], "sampling": "fixed", "reuse": False}
    with counted(lite0, photos["cat"]) as sizes:
        found = explain(lite0, photos["cat"], **asked)
    assert sum(sizes) == 5
    reported = found.manifest["agreement"]
    assert reported[UNSTEADY] < STEADY < reported["bn2"]
    (note,) = found.manifest["layer_notes"].values()
    assert "4 noisy copies" in note
    assert f"correlate with it at {reported[UNSTEADY]:.2f}" in note


def test_a_note_on_noise_is_saved_loaded_and_shown(
    lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image], tmp_path
) -> None:
    found = explain(lite0, photos["cat"], target_layers=UNSTEADY, sampling="fixed")
    loaded = Explanation.load(found.save(tmp_path / "result"))
    assert loaded.manifest["agreement"] == found.manifest["agreement"]
    shown = summary(loaded, loaded.classes[0], UNSTEADY)
    assert "the map of another seed would" in shown
    assert "out of 4 noisy copies" in shown


def test_methods_without_noise_have_no_agreement(
    lite0: cam_hub.LoadedModel, photos: dict[str, Image.Image]
) -> None:
    found = explain(lite0, photos["cat"], method="layercam", target_layers=UNSTEADY)
    assert "agreement" not in found.manifest


def test_progress_never_falls_back(unsteady: Unsteady) -> None:
    told = unsteady.told
    assert len(told) > 1
    assert told == sorted(told)
    assert 0 <= told[0] <= told[-1] <= 1
