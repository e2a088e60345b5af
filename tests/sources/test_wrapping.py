"""``wrap_model``: preprocessing and labels of the user's own networks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torchvision.models
from PIL import Image, ImageOps
from timm.data.config import resolve_model_data_config
from torch import nn
from torchvision import transforms
from torchvision.models import ResNet50_Weights
from torchvision.transforms import v2

import cam_hub
from cam_hub import wrap_model
from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.images.preprocessing import Preprocessing
from cam_hub.images.transforms import TransformPreprocessing, read_transform
from cam_hub.models.config import read_class_names

SMALL = (3, 32, 32)


def net(outputs: int = 3, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    head = nn.Linear(8, outputs)
    nn.init.uniform_(head.weight, 0.1, 1.0)  # so that every class has evidence
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head,
    )


def noise_photo(width: int, height: int) -> Image.Image:
    drawn = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


# --- What the module declares ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    # Means of 0.5, of CLIP, of zero; a squash; a crop of 0.95; 240 pixels.
    [
        "efficientnet_lite0",
        "vit_tiny_patch16_224",
        "vit_base_patch16_clip_224",
        "test_vit",
        "beit_base_patch16_224",
        "tf_efficientnet_b1",
    ],
)
def test_a_timm_network_is_preprocessed_as_timm_does(name: str) -> None:
    module = timm.create_model(name, **({"depth": 1} if "base" in name else {}))
    transform = timm.data.create_transform(**resolve_model_data_config(module))
    photo = noise_photo(300, 200)
    assert torch.equal(wrap_model(module).preprocess(photo), transform(photo)[None])


def test_a_wrapped_module_predicts_what_the_loaded_model_does(lite0, photos) -> None:
    wrapped = wrap_model(lite0.module)
    for photo in (photos["cat"], photos["lion"]):
        loaded = cam_hub.predict(lite0, photo).predictions
        assert cam_hub.predict(wrapped, photo).predictions == loaded


def test_arguments_win_over_what_is_declared(lite0) -> None:
    model = wrap_model(
        lite0.module, mean=0.25, input_size=(3, 96, 64), crop_pct=1, interpolation="nearest"
    )
    found = model.preprocessing.as_dict()
    assert found["mean"] == [0.25] * 3
    assert found["std"] == [0.5] * 3  # declared
    assert found["input_size"] == [3, 96, 64]
    assert found["resize_size"] == [96, 64]
    assert found["interpolation"] == "nearest"


def test_a_configuration_may_be_a_plain_dict_or_have_the_old_name() -> None:
    declared = {"mean": (0.1,) * 3, "std": (0.2,) * 3, "input_size": (3, 48, 40)}
    for name in ("pretrained_cfg", "default_cfg"):
        module = net()
        setattr(module, name, declared)
        found = wrap_model(module).preprocessing.as_dict()
        assert (found["mean"], found["input_size"]) == ([0.1] * 3, [3, 48, 40])


@pytest.mark.parametrize("declared", ["resnet18", {}, {"mean": (9, 9, 9), "input_size": 3}, 5])
def test_an_attribute_of_that_name_that_is_not_a_configuration_is_ignored(declared: object) -> None:
    module = net()
    module.pretrained_cfg = declared  # type: ignore[assignment]
    assert wrap_model(module).preprocessing.as_dict()["mean"] == [0.485, 0.456, 0.406]


def test_the_configuration_of_the_only_part_that_has_one_is_used_and_reported() -> None:
    backbone = timm.create_model("test_vit", num_classes=0)
    model = wrap_model(nn.Sequential(backbone, nn.Linear(backbone.num_features, 3)))
    assert model.preprocessing == wrap_model(backbone).preprocessing
    assert any("'0'" in note for note in model.notes)
    assert model.class_names is None


def test_a_network_built_for_other_channels_has_no_declared_mean() -> None:
    model = wrap_model(timm.create_model("test_resnet", in_chans=5, num_classes=3))
    assert model.input_size[0] == 5
    assert model.preprocessing.as_dict()["mean"] == [0.5] * 5
    assert any("5 channels" in note for note in model.notes)


def test_a_network_built_for_another_size_is_given_that_size() -> None:
    module = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), depth=1, num_classes=3)
    assert wrap_model(module).input_size == (3, 64, 96)
    assert len(cam_hub.predict(wrap_model(module), noise_photo(70, 70)).predictions) == 3
    assert wrap_model(module, input_size=(3, 32, 32)).input_size == (3, 32, 32)


def test_other_than_three_channels_have_half_as_mean_and_std_and_that_is_reported() -> None:
    model = wrap_model(net(channels=1), input_size=(1, 32, 32))
    assert model.preprocessing.as_dict()["mean"] == [0.5]
    assert model.preprocessing.as_dict()["std"] == [0.5]
    result = cam_hub.explain(model, noise_photo(40, 40), method="gradcam", target_layers="3")
    assert result.manifest["model"]["notes"] == list(model.notes)
    assert len([note for note in model.notes if "1 channels; 0.5 is assumed" in note]) == 2


def test_declared_labels_of_a_head_that_was_replaced_are_not_used() -> None:
    module = timm.create_model("test_resnet", num_classes=1000)
    assert wrap_model(module).class_names is not None
    module.fc = nn.Linear(module.num_features, 4)
    model = wrap_model(module, input_size=(3, 64, 64))
    labels = {found.label for found in cam_hub.predict(model, noise_photo(64, 64)).predictions}
    assert labels == {"class 0", "class 1", "class 2", "class 3"}


def test_a_torchvision_network_declares_nothing() -> None:
    model = wrap_model(torchvision.models.resnet18())
    assert model.preprocessing.as_dict()["mean"] == [0.485, 0.456, 0.406]
    assert model.class_names is None


# --- Numbers that are not those of pixels in 0-1 --------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "hint"),
    [
        ((0.485, 0.456, 406), (0.229, 0.224, 0.225), r"406 looks like a typo for 0\.406"),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), r"0-255.*0\.485, 0\.456, 0\.406"),
        ((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), "blue, green, red"),
        ((-0.5, -0.5, -0.5), 0.5, "-1 to 1"),
        ((0.5, 0.5, 0.5), (0.229, 2.24, 0.225), r"2\.24 looks like a typo for 0\.224"),
        ((0.5, 0.5, 0.5), (58.395, 57.12, 57.375), r"0-255.*0\.229, 0\.224, 0\.225"),
        ((0.5, 0.5, 0.5), 0, "above 0"),
        ((0.5, 0.5, 0.5), (-0.2, 0.2, 0.2), "above 0"),
        ((0.5, 0.5, 0.5), 1e-9, "extreme"),
        ((0.5, 0.5), 0.5, "3 finite numbers.*2 were given"),
        ((0.5, float("nan"), 0.5), 0.5, "3 finite numbers"),
        ("0.5", 0.5, "one per channel|finite"),
        ((0.5, None, 0.5), 0.5, "finite|one per channel"),
    ],
    ids=str,
)
def test_implausible_normalisation_is_refused_with_what_it_probably_is(
    mean: object, std: object, hint: str
) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        wrap_model(net(), input_size=SMALL, mean=mean, std=std)  # type: ignore[arg-type]


def test_plausible_normalisation_is_taken_in_any_form() -> None:
    for mean in (0.5, [0.5] * 3, np.full(3, 0.5), torch.full((3,), 0.5)):
        model = wrap_model(net(), mean=mean, std=(1, 1, 1))  # type: ignore[arg-type]
        assert model.preprocessing.as_dict()["mean"] == [0.5] * 3
    # Pixels in 0-255, as some networks need them.
    assert wrap_model(net(), mean=0, std=1 / 255).preprocessing.as_dict()["std"] == [1 / 255] * 3


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["ant", "bee", "cat"],
        ("ant", "bee", "cat"),
        {0: "ant", 1: "bee", 2: "cat"},
        {2: "cat", 0: "ant", 1: "bee"},
        {"2": "cat", "0": "ant", "1": "bee"},
        {"cat": 2, "ant": 0, "bee": 1},
        {np.int64(1): "bee", np.int64(0): "ant", np.int64(2): "cat"},
        np.array(["ant", "bee", "cat"]),
        np.array(["ant", "bee", "cat"], dtype=object),
        pd.Series(["ant", "bee", "cat"]),
        pd.Series({2: "cat", 0: "ant", 1: "bee"}),
        (name for name in ("ant", "bee", "cat")),
        {"ant": None, "bee": None, "cat": None}.keys(),
        [" ant\n", "bee", b"cat"],
    ],
    ids=lambda names: type(names).__name__,
)
def test_names_are_read_by_index(names: object) -> None:
    assert read_class_names(names) == ("ant", "bee", "cat")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ("cat", r"\['cat'\]"),
        ([], "there are none"),
        ({}, "there are none"),
        ({1: "a", 2: "b"}, "start at 1"),
        ({0: "a", 2: "b"}, "1 is missing"),
        ({0: "a", "0": "b"}, "one label for class 0"),
        ({"a": "b"}, "from label to index"),
        (frozenset("a"), "no order"),
        ([["a"], ["b"]], "class 0"),
        (["a", None], "class 1"),
        (["a", float("nan")], "class 1"),
        (7, "one label per class"),
    ],
    ids=str,
)
def test_a_label_count_that_differs_from_the_class_count_is_refused(
    names: object, hint: str
) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        wrap_model(net(), class_names=names)  # type: ignore[arg-type]


def test_names_may_be_numbers_and_occur_twice() -> None:
    assert read_class_names([7, 8.5, "crane", "crane"]) == ("7", "8.5", "crane", "crane")


@pytest.mark.parametrize(
    ("names", "outputs"),
    [(["a", "b"], 3), (["a", "b", "c", "d"], 3), (["a"], 2), (["a", "b", "c"], 1)],
    ids=str,
)
def test_too_few_or_too_many_names_are_refused_with_both_numbers(
    names: list[str], outputs: int
) -> None:
    model = wrap_model(net(outputs), input_size=SMALL, class_names=names)
    photo = noise_photo(32, 32)
    for ask in (cam_hub.predict, cam_hub.explain, lambda m, p: list(cam_hub.explain_many(m, [p]))):
        with pytest.raises(InvalidArgument, match=rf"{outputs} .*{len(names)} label"):
            ask(model, photo)


def test_too_few_names_of_a_segmentation_model_are_refused_with_both_numbers() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    model = wrap_model(module, input_size=SMALL, task="segmentation", class_names=["a", "b"])
    with pytest.raises(InvalidArgument, match=r"4 labels.*2 labels"):
        cam_hub.predict(model, noise_photo(32, 32))


def test_one_logit_takes_one_name_or_two() -> None:
    assert wrap_model(net(1), class_names=["dog"]).class_names == ("not dog", "dog")
    assert wrap_model(net(1), class_names=["cat", "dog"]).class_names == ("cat", "dog")
    for names in (["dog"], ["cat", "dog"]):
        model = wrap_model(net(1), input_size=SMALL, class_names=names)
        labels = {found.label for found in cam_hub.predict(model, noise_photo(32, 32)).predictions}
        assert "dog" in labels
        assert labels <= {"dog", "not dog", "cat"}


# --- Transforms -----------------------------------------------------------------------------------

NORMALISE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
USUAL = transforms.Compose(
    [transforms.Resize(64), transforms.CenterCrop(56), transforms.ToTensor(), NORMALISE]
)


def square(photo: Image.Image) -> Image.Image:
    """Pads to a square, which no transform of torchvision does."""
    return ImageOps.pad(photo, (60, 60))


def like_albumentations(*, image: np.ndarray) -> dict[str, np.ndarray]:
    resized = np.asarray(Image.fromarray(image).resize((50, 40)))
    return {"image": (resized / 255 - 0.5).astype(np.float32)}


def like_a_processor(images: Image.Image) -> dict[str, list[np.ndarray]]:
    pixels = np.asarray(images.resize((40, 40)), dtype=np.float32) / 255
    return {"pixel_values": [(pixels.transpose(2, 0, 1) - 0.5) / 0.5]}


@pytest.mark.parametrize(
    "transform",
    [
        ResNet50_Weights.IMAGENET1K_V2.transforms(),
        USUAL,
        transforms.Compose([transforms.Resize((40, 60)), transforms.ToTensor()]),
        timm.data.create_transform((3, 48, 48), interpolation="bicubic", crop_pct=0.9),
    ],
    ids=["preset", "compose", "squash", "timm"],
)
def test_usual_transforms_are_read_as_plain_data(transform: object) -> None:
    model = wrap_model(net(), transform=transform)  # type: ignore[arg-type]
    assert isinstance(model.preprocessing, Preprocessing)
    for size in ((90, 70), (70, 131), (300, 40)):
        photo = noise_photo(*size)
        expected = transform(photo)[None]  # type: ignore[operator]
        torch.testing.assert_close(model.preprocess(photo), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(320, 240), (101, 67), (57, 190), (640, 427)], ids=str)
def test_measured_placements_are_those_of_the_same_transform_in_plain_data(
    size: tuple[int, int],
) -> None:
    exact = Preprocessing(input_size=(3, 64, 48), mean=(0.4,) * 3, std=(0.3,) * 3)
    measured = TransformPreprocessing(lambda photo: exact(photo)[0])
    assert measured.input_size == (3, 64, 48)
    np.testing.assert_allclose(measured.mean, [0.4] * 3, atol=1e-5)
    np.testing.assert_allclose(measured.std, [0.3] * 3, atol=1e-5)
    found, expected = measured.place(size), exact.place(size)
    assert found is not None
    # Both corners of the photo, in pixels of the input.
    for corner in ((0.0, 0.0), tuple(map(float, size))):
        np.testing.assert_allclose(found.to_input(*corner), expected.to_input(*corner), atol=0.6)


@pytest.mark.parametrize(
    ("transform", "corners"),
    [  # The positions in the input of the corners of a photo of 300 by 200 pixels.
        (
            transforms.Compose([transforms.Lambda(square), transforms.ToTensor()]),
            ((0, 10), (60, 50)),
        ),
        (like_albumentations, ((0, 0), (50, 40))),
        (like_a_processor, ((0, 0), (40, 40))),
        (
            transforms.Compose([transforms.Resize(40), transforms.ToTensor(), NORMALISE]),
            ((0, 0), (60, 40)),
        ),
        (
            transforms.Compose(
                [transforms.Grayscale(1), transforms.Resize((30, 40)), transforms.ToTensor()]
            ),
            ((0, 0), (40, 30)),
        ),
        (
            v2.Compose([v2.ToImage(), v2.Resize((40, 40)), v2.ToDtype(torch.float32, scale=True)]),
            ((0, 0), (40, 40)),
        ),
        (
            transforms.Compose(
                [
                    transforms.Resize(80),
                    transforms.Lambda(lambda p: p.crop((20, 10, 60, 70))),
                    transforms.ToTensor(),
                ]
            ),
            ((-20, -10), (100, 70)),
        ),
    ],
    ids=["padded", "albumentations", "processor", "no crop", "grey", "v2", "crop off centre"],
)
def test_where_a_photo_lies_is_measured(
    transform: object, corners: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    found = TransformPreprocessing(transform).place((300, 200))  # type: ignore[arg-type]
    assert found is not None
    np.testing.assert_allclose(found.to_input(0.0, 0.0), corners[0], atol=0.3)
    np.testing.assert_allclose(found.to_input(300.0, 200.0), corners[1], atol=0.3)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.Compose(
            [transforms.Resize((40, 40)), transforms.Lambda(ImageOps.mirror), transforms.ToTensor()]
        ),
        transforms.Compose(
            [
                transforms.Resize((40, 40)),
                transforms.Lambda(lambda p: p.rotate(20)),
                transforms.ToTensor(),
            ]
        ),
        transforms.Compose(
            [
                transforms.Resize((40, 40)),
                transforms.Lambda(lambda p: p.rotate(90)),
                transforms.ToTensor(),
            ]
        ),
        transforms.Compose(
            [
                transforms.Resize((40, 40)),
                transforms.ToTensor(),
                lambda x: (x - x.mean()) / (x.std() + 1e-5),
            ]
        ),
        lambda photo: torch.fft.fft2(transforms.ToTensor()(photo.resize((40, 40)))).abs(),
    ],
    ids=["mirrored", "rotated", "turned", "per image", "frequencies"],
)
def test_where_a_photo_does_not_lie_upright_maps_are_placed_on_the_input_and_that_is_reported(
    transform: object,
) -> None:
    model = wrap_model(net(), transform=transform)  # type: ignore[arg-type]
    (note,) = model.notes
    assert "placed on the model's input" in note
    result = cam_hub.explain(model, noise_photo(90, 60), method="gradcam", target_layers="3")
    assert result.photo.size == (40, 40)
    assert result.heatmap().shape == (40, 40)
    assert result.manifest["model"]["notes"] == [note]
    assert "transform" in result.manifest["preprocessing"]


def test_a_result_of_a_measured_transform_lies_on_the_photo_and_can_be_made_again() -> None:
    transform = transforms.Compose([transforms.Lambda(square), transforms.ToTensor()])
    model = wrap_model(net(), transform=transform)
    photo = noise_photo(300, 200)
    result = cam_hub.explain(model, photo, method="gradcam", target_layers="3")
    assert result.photo.size == (300, 200)
    assert not model.notes
    assert result.manifest["preprocessing"]["input_size"] == [3, 60, 60]
    again = cam_hub.reproduce(result.manifest, photo, model=model)
    assert np.array_equal(again.cam(), result.cam())
    with pytest.raises(InvalidArgument, match="the model itself"):
        cam_hub.reproduce(result.manifest, photo)


def test_a_model_with_another_preprocessing_does_not_make_a_result_again() -> None:
    photo = noise_photo(40, 40)
    model = wrap_model(net(), input_size=SMALL, mean=0.5)
    result = cam_hub.explain(model, photo, method="gradcam", target_layers="3")
    other = wrap_model(model.module, input_size=SMALL, mean=0.4)
    with pytest.raises(InvalidArgument, match=r"mean=\[0\.5, 0\.5, 0\.5\]"):
        cam_hub.reproduce(result.manifest, photo, model=other)


def test_a_preprocessed_tensor_is_shown_in_the_photos_colours() -> None:
    model = wrap_model(
        net(),
        transform=transforms.Compose([transforms.Lambda(square), transforms.ToTensor(), NORMALISE]),
    )
    photo = noise_photo(60, 60)
    shown = cam_hub.explain(
        model, model.preprocess(photo), method="gradcam", target_layers="3"
    ).photo
    assert np.abs(np.asarray(shown, dtype=int) - np.asarray(photo, dtype=int)).max() <= 1


@pytest.mark.parametrize(
    ("transform", "hint"),
    [
        (3, "a function"),
        (
            transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()]),
            "different results",
        ),
        (
            transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()]),
            "different results",
        ),
        (transforms.Resize(32), r"end it with ToTensor\(\)"),
        (transforms.Compose([transforms.Resize(32), transforms.PILToTensor()]), "uint8"),
        (lambda photo: 1 / 0, "ZeroDivisionError"),
        (lambda photo: {"x": photo}, "'image' or 'pixel_values'"),
        (lambda photo: torch.zeros(3), r"\(3,\)"),
        (lambda photo: None, "NoneType"),
        (lambda photo: torch.full((3, 8, 8), float("nan")), "NaN"),
    ],
    ids=range(10),
)
def test_transforms_that_cannot_work_are_refused(transform: object, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        wrap_model(net(), transform=transform)  # type: ignore[arg-type]


def test_a_transform_and_what_it_replaces_exclude_each_other() -> None:
    with pytest.raises(InvalidArgument, match="along with mean"):
        wrap_model(net(), transform=USUAL, mean=0.5)
    with pytest.raises(InvalidArgument, match=r"\(3, 56, 56\)"):
        wrap_model(net(), transform=USUAL, input_size=(3, 64, 64))
    assert wrap_model(net(), transform=USUAL, input_size=(3, 56, 56)).input_size == (3, 56, 56)


def test_a_photo_on_which_the_transform_fails_is_refused() -> None:
    def picky(photo: Image.Image) -> torch.Tensor:
        if photo.size == (5, 5):
            raise RuntimeError("too small")
        return torch.zeros(3, 8, 8) + np.asarray(photo).mean() / 255

    found = read_transform(picky)
    with pytest.raises(ImageRefused, match="5×5 pixels: too small"):
        found(noise_photo(5, 5))
