"""The registry of methods, and laws that every method in it obeys.

The laws run over ``METHODS``, so a new method is held to them on the day it is registered. They
are checked in float64, where rounding cannot hide a mistake.
"""

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from cam_hub.errors import InvalidArgument, MethodNotFound
from cam_hub.methods import METHODS, Evidence, Method, Moments, Sign
from cam_hub.methods.registry import Level, MethodRegistry
from tests.fakes.methods import ONE_PASS

registered = pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))

every_method = pytest.mark.parametrize("method", ONE_PASS.values(), ids=list(ONE_PASS))
"""Those that make passes of their own have laws of their own (``test_perturbation.py``)."""

SPECIFIC = {name: method for name, method in ONE_PASS.items() if method.class_specific}
every_method_of_a_class = pytest.mark.parametrize("method", SPECIFIC.values(), ids=list(SPECIFIC))


def some_evidence(
    *shape: int, samples: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Evidence:
    """Random evidence with activations and gradients of both signs; the shape is (B, C, *grid)."""
    shape = shape or (3, 5, 4, 6)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2 + samples, *shape, dtype=torch.float64, generator=generator).to(dtype)
    return Evidence(draw[0] + 0.5, draw[1], Moments.of(draw[2:]))


def mapped(evidence: Evidence, change: Callable[[Tensor], Tensor]) -> Evidence:
    """The same evidence after one change to each of its tensors."""
    noisy = evidence.noisy
    assert noisy is not None
    moments = Moments(change(noisy.first), change(noisy.second), change(noisy.third))
    return Evidence(change(evidence.activation), change(evidence.gradient), moments)


def tensors_of(evidence: Evidence) -> list[Tensor]:
    noisy = evidence.noisy
    assert noisy is not None
    return [evidence.activation, evidence.gradient, noisy.first, noisy.second, noisy.third]


def with_gradients(activation: Tensor, gradient: Tensor) -> Evidence:
    """Evidence whose single noisy copy has the clean image's gradient."""
    return Evidence(activation, gradient, Moments.of(gradient[None]))


# --- The registry ---------------------------------------------------------------------------------


def test_the_two_methods_of_the_mission_come_first() -> None:
    assert list(METHODS)[:2] == ["smoothgradcampp", "layercam"]
    assert {"gradcam", "gradcampp", "xgradcam", "hirescam", "eigencam"} <= set(METHODS)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("layercam", "layercam"),
        ("LayerCAM", "layercam"),
        ("Layer-CAM", "layercam"),
        ("SmoothGradCAM++", "smoothgradcampp"),
        ("Smooth Grad-CAM++", "smoothgradcampp"),
        ("smooth_grad_cam_pp", "smoothgradcampp"),
        ("Grad-CAM", "gradcam"),
        ("GradCAMpp", "gradcampp"),
        ("  XGrad\tCAM ", "xgradcam"),
        ("EigenCAM", "eigencam"),
    ],
)
def test_a_method_is_found_in_the_usual_spellings(spelling: str, name: str) -> None:
    assert METHODS[spelling].name == name
    assert spelling in METHODS


@registered
def test_a_method_is_found_by_its_own_title(method: Method) -> None:
    assert METHODS[method.title] is method


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(MethodNotFound, match="layercam") as caught:
        METHODS["Layer-KAM"]
    assert caught.value.nearest[0] == "layercam"
    assert caught.value.name == "Layer-KAM"


@pytest.mark.parametrize("name", ["", "camera", "grad+cam", None, 3])
def test_an_invalid_name_of_a_method_is_not_in_the_registry(name: object) -> None:
    assert name not in METHODS
    assert METHODS.get(name) is None  # type: ignore[call-overload]


def test_the_registry_cannot_be_written_to_like_a_dict() -> None:
    with pytest.raises(TypeError):
        METHODS["mine"] = METHODS["gradcam"]  # type: ignore[index]
    with pytest.raises(TypeError):
        del METHODS["gradcam"]  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        METHODS["gradcam"].name = "mine"  # type: ignore[misc]


def test_a_registered_method_is_found_and_counted() -> None:
    registry = MethodRegistry()
    mine = registry.register(replace(METHODS["gradcam"], name="mycam", title="My-CAM"))
    assert registry["My-CAM"] is mine
    assert dict(registry) == {"mycam": mine}


def test_a_name_can_be_taken_only_once() -> None:
    registry = MethodRegistry()
    first = registry.register(METHODS["gradcam"])
    with pytest.raises(InvalidArgument, match="taken: gradcam"):
        registry.register(replace(METHODS["layercam"], name="gradcam"))
    assert registry["gradcam"] is first


@pytest.mark.parametrize("name", ["", "My-CAM", "my_cam", "my cam", "cam++"])
def test_a_name_that_no_lookup_could_reach_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name="):
        MethodRegistry().register(replace(METHODS["gradcam"], name=name))


# --- Laws of the maps -----------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("grid", [(7,), (4, 6), (2, 3, 4), (1, 1)], ids=str)
def test_the_map_has_one_value_per_position_and_none_is_negative(
    method: Method, grid: tuple[int, ...]
) -> None:
    evidence = some_evidence(16, 5, *grid)
    cam = method.compute(evidence)
    assert cam.shape == (16, *grid)
    # In 16 random maps, the ReLU certainly removes something; Eigen-CAM has the sign that is
    # positive at a single position.
    assert cam.min() == 0 or (not method.class_specific and len(cam[0].flatten()) == 1)
    assert cam.min() >= 0
    assert cam.max() > 0


@every_method
def test_a_sample_gets_the_same_map_alone_as_in_a_batch(method: Method) -> None:
    evidence = some_evidence()
    alone = [
        method.compute(mapped(evidence, lambda x, i=i: x[i : i + 1]))  # type: ignore[misc]
        for i in range(3)
    ]
    torch.testing.assert_close(method.compute(evidence), torch.cat(alone))


@every_method
def test_the_order_of_channels_does_not_matter(method: Method) -> None:
    evidence = some_evidence()
    shuffled = mapped(evidence, lambda x: x[:, [3, 0, 4, 1, 2]])
    torch.testing.assert_close(method.compute(shuffled), method.compute(evidence))


@every_method
@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.flip(-2),
        lambda x: x.flip(-1),
        lambda x: x.transpose(-2, -1),
        lambda x: x.roll((1, 2), (-2, -1)),
    ],
    ids=["upside down", "mirrored", "transposed", "rolled"],
)
def test_the_map_moves_with_the_grid(method: Method, move: Callable[[Tensor], Tensor]) -> None:
    evidence = some_evidence()
    moved = method.compute(mapped(evidence, move))
    torch.testing.assert_close(moved, move(method.compute(evidence)))


@every_method
def test_extra_grid_axes_are_only_more_positions(method: Method) -> None:
    clip = some_evidence(2, 5, 2, 3, 4)
    line = mapped(clip, lambda x: x.flatten(2))
    torch.testing.assert_close(method.compute(clip).flatten(1), method.compute(line))


@every_method_of_a_class
def test_without_gradient_the_map_is_zero(method: Method) -> None:
    activation = some_evidence().activation
    cam = method.compute(with_gradients(activation, torch.zeros_like(activation)))
    assert torch.equal(cam, torch.zeros(3, 4, 6, dtype=torch.float64))


@every_method_of_a_class
def test_a_channel_without_gradient_does_not_count(method: Method) -> None:
    evidence = some_evidence()
    silent = mapped(evidence, lambda x: torch.cat([x, torch.zeros_like(x[:, :1])], dim=1))
    silent.activation[:, -1] = 100
    torch.testing.assert_close(method.compute(silent), method.compute(evidence))


@every_method
def test_the_evidence_is_left_as_it_was(method: Method) -> None:
    evidence = some_evidence(dtype=torch.float32)
    before = [tensor.clone() for tensor in tensors_of(evidence)]
    method.compute(evidence)
    assert all(map(torch.equal, tensors_of(evidence), before))


@every_method
def test_one_activation_serves_several_classes_without_being_copied(method: Method) -> None:
    evidence = some_evidence(4, 5, 4, 6)
    shared = evidence.activation[:1].expand(4, -1, -1, -1)
    copied = method.compute(Evidence(shared.clone(), evidence.gradient, evidence.noisy))
    torch.testing.assert_close(
        method.compute(Evidence(shared, evidence.gradient, evidence.noisy)), copied
    )


@every_method
def test_the_map_is_not_part_of_the_graph(method: Method) -> None:
    evidence = mapped(some_evidence(), lambda x: x.requires_grad_())
    assert not method.compute(evidence).requires_grad


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(method: Method, dtype: torch.dtype) -> None:
    # Sums reach 32 * 32 * 200 = 2e5, beyond float16's 65504; cubes of 100 reach 1e6.
    draw = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    activation, gradient = (200 * draw[0]).to(dtype), (100 * draw[1]).to(dtype)
    cam = method.compute(with_gradients(activation, gradient))
    wide = method.compute(with_gradients(activation.float(), gradient.float()))
    assert cam.dtype == torch.float32
    assert cam.isfinite().all()
    assert cam.max() > 0
    assert torch.equal(cam, wide)


@every_method
def test_autocast_around_a_method_does_not_change_it(method: Method) -> None:
    evidence = some_evidence(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = method.compute(evidence)
    assert torch.equal(inside, method.compute(evidence))


@every_method
@pytest.mark.parametrize("unit", [1e-15, 1.0, 1e10], ids=str)
def test_finite_evidence_never_gives_nan(method: Method, unit: float) -> None:
    # Small whole numbers of both signs make denominators cancel to exactly 0 again and again.
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(-2, 3, (2, 500, 2, 2, 2), generator=generator).float()
    assert method.compute(with_gradients(draw[0], unit * draw[1])).isfinite().all()


@pytest.mark.parametrize("name", ["gradcam", "layercam", "xgradcam", "hirescam"])
@pytest.mark.parametrize("field", ["activation", "gradient"])
def test_methods_of_first_order_are_linear_in_activation_and_gradient(
    name: str, field: str
) -> None:
    evidence = some_evidence()
    larger = replace(evidence, **{field: 3 * getattr(evidence, field)})
    compute = METHODS[name].compute
    torch.testing.assert_close(compute(larger), 3 * compute(evidence))


# --- What a method requests
# ------------------------------------------------------------------------


@every_method
def test_only_a_method_that_declares_it_needs_noisy_copies(method: Method) -> None:
    evidence = some_evidence()
    without = Evidence(evidence.activation, evidence.gradient)
    if method.needs_noise:
        with pytest.raises(InvalidArgument, match="noisy"):
            method.compute(without)
        other_gradient = replace(evidence, gradient=torch.zeros_like(evidence.gradient))
        assert torch.equal(method.compute(other_gradient), method.compute(evidence))
    else:
        assert torch.equal(method.compute(without), method.compute(evidence))


@every_method
def test_gradients_of_another_shape_are_refused(method: Method) -> None:
    activation = torch.ones(1, 2, 3, 3)
    with pytest.raises(InvalidArgument, match=r"\(1, 2, 3, 3\)"):
        method.compute(with_gradients(activation, torch.ones(1, 2, 3, 4)))


@every_method
def test_an_activation_without_a_grid_is_refused(method: Method) -> None:
    pooled = torch.ones(1, 2)
    moments = Moments(pooled, pooled, pooled)
    with pytest.raises(InvalidArgument, match="grid"):
        method.compute(Evidence(pooled, pooled, moments))


@registered
def test_the_scale_keeps_zero_and_order_and_stays_within_0_and_1(method: Method) -> None:
    maps = torch.tensor([[[0.0, 5.0, 10.0]], [[0.0, 0.1, 0.2]], [[0.0, 0.0, 0.0]]])
    before = maps.clone()
    scaled = method.scale(maps)
    assert scaled.min() == 0
    assert scaled.max() <= 1
    assert (scaled[0].diff() > 0).all()
    torch.testing.assert_close(scaled[1], scaled[0])  # each sample by its own maximum
    assert torch.equal(scaled[2], maps[2])
    assert torch.equal(maps, before)


@every_method
def test_a_method_can_be_called_with_existing_tensors(method):
    generator = torch.Generator().manual_seed(3)
    activation, gradient = torch.rand((2, 2, 4, 5, 6), generator=generator)
    noisy = torch.rand((3, 2, 4, 5, 6), generator=generator)
    expected = method.compute(Evidence(activation, gradient, Moments.of(noisy)))
    assert torch.equal(method(activation, gradient, noisy), expected)
    assert method(activation, gradient).shape == (2, 5, 6)


# --- What is recorded of a method


@every_method
def test_only_a_map_that_depends_on_the_class_changes_with_the_gradient(method: Method) -> None:
    evidence, other = some_evidence(), some_evidence(seed=1)
    changed = Evidence(evidence.activation, other.gradient, other.noisy)
    same = torch.equal(method.compute(changed), method.compute(evidence))
    assert same != method.class_specific


@registered
@pytest.mark.parametrize("sign", ["against", "both"])
def test_evidence_of_another_sign_is_refused_if_the_map_does_not_depend_on_the_score(
    method: Method, sign: Sign
) -> None:
    assert method.signed("for") is method
    if method.class_specific and not method.unsigned:
        assert method.signed(sign).sign == sign
    else:
        reason = "magnitudes" if method.class_specific else "the same for every score"
        with pytest.raises(InvalidArgument, match=reason):
            method.signed(sign)


@registered
def test_the_record_of_a_method_is_complete(method: Method) -> None:
    assert method.level in get_args(Level)
    assert method.passes.forward >= 1
    if method.attribute is None:
        assert bool(method.passes.per) == method.needs_noise
        assert not method.seeded
    first = method.passes.forward if method.passes.shared else 1
    assert str(method.passes).startswith(f"{first} forward")
    assert method.url.startswith("https://")
    assert method.summary
    assert re.fullmatch(r".+ \d{4}", method.citation)
    assert method.paper.startswith(method.citation)
