"""Many images: folders, globs, datasets, loaders and pairs, each with its key and label."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

import cam_hub
from cam_hub import expected, explain_many, top
from cam_hub.attribution.samples import open_samples
from cam_hub.errors import ClassNotFound, ImageRefused, InvalidArgument
from cam_hub.targets.classes import LabelledClass, choose_classes

NAMES = ("cat", "dog, puppy", "fox", "owl")


def net(names: tuple[str, ...] | None = NAMES) -> cam_hub.LoadedModel:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return cam_hub.wrap_model(
        nn.Sequential(*module, nn.Linear(8, 4)), input_size=(3, 32, 32), class_names=names
    )


def picture(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (40, 36, 3), dtype="uint8")
    return Image.fromarray(noise)


def encoded(seed: int = 0) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two class folders with two images each, one deeper than the other."""
    for index, name in enumerate(["dog/a.png", "cat/a.png", "cat/more/b.JPG", "dog/.hidden.png"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    return tmp_path


def keys_and_labels(images: object, **options: bool) -> list[tuple[object, object]]:
    return [(sample.key, sample.label) for sample in open_samples(images, **options)]


class TestFolders:
    def test_folders_are_searched_to_any_depth_and_the_first_level_labels(self, folder):
        found = [("cat/a.png", "cat"), ("cat/more/b.JPG", "cat"), ("dog/a.png", "dog")]
        assert keys_and_labels(folder) == found
        assert keys_and_labels(str(folder)) == found
        assert keys_and_labels(folder.as_uri()) == found

    def test_a_glob_has_keys_relative_to_where_it_begins(self, folder):
        assert keys_and_labels(f"{folder}/**/a.png") == [("cat/a.png", "cat"), ("dog/a.png", "dog")]
        assert keys_and_labels(str(folder / "cat" / "*.png")) == [("a.png", None)]

    def test_the_home_folder_can_be_written_as_a_tilde(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder))
        assert len(keys_and_labels("~/cat")) == 2

    def test_a_loop_of_links_is_entered_once(self, folder):
        (folder / "cat" / "again").symlink_to(folder, target_is_directory=True)
        assert len(keys_and_labels(folder)) == 3

    @pytest.mark.parametrize("pattern", ["*.png", "nowhere/**/*.jpg"])
    def test_a_glob_that_matches_nothing_is_refused(self, tmp_path, pattern):
        with pytest.raises(InvalidArgument, match="pictures in it"):
            open_samples(str(tmp_path / pattern))


class Rows(Dataset):
    """A dataset read by index, in which the second item is damaged."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 1:
            raise OSError("image file is truncated")
        return picture(index), index


class Stream(IterableDataset):
    def __iter__(self):
        yield from ((picture(index), torch.tensor(index)) for index in range(3))


def tensors(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def loader(**options) -> DataLoader:
    return DataLoader(TensorDataset(tensors(5), torch.arange(5) % 4), batch_size=2, **options)


class TestDataSets:
    def test_what_torchvision_lists_has_its_files_as_keys_and_its_labels(self, folder):
        (folder / "dog" / ".hidden.png").unlink()  # which torchvision would read
        data = torchvision.datasets.ImageFolder(folder)
        found = [("cat/a.png", "cat"), ("cat/more/b.JPG", "cat"), ("dog/a.png", "dog")]
        assert keys_and_labels(data) == found

    def test_parts_of_a_data_set_keep_its_labels_and_files(self, folder):
        """An index among the folders must not be mistaken for one of the model's classes."""
        (folder / "dog" / ".hidden.png").unlink()
        data = torchvision.datasets.ImageFolder(folder)
        part = Subset(data, [2, 0])
        assert keys_and_labels(part) == [("dog/a.png", "dog"), ("cat/a.png", "cat")]
        assert keys_and_labels(Subset(part, [1])) == [("cat/a.png", "cat")]
        assert [label for _, label in keys_and_labels(ConcatDataset([data, part]))] == [
            "cat", "cat", "dog", "dog", "cat",
        ]  # fmt: skip
        tensor = torchvision.transforms.ToTensor()
        loader = DataLoader(
            Subset(torchvision.datasets.ImageFolder(folder, tensor), [2, 0]), batch_size=2
        )
        assert [label for _, label in keys_and_labels(loader)] == ["dog", "cat"]
        other = TensorDataset(tensors(1), torch.tensor([1]))
        assert [label for _, label in keys_and_labels(ConcatDataset([data, other]))][-1] == 1

    def test_an_item_that_cannot_be_read_does_not_end_the_others(self):
        one, bad, three = explain_many(net(), Rows(), method="layercam")
        assert [one.label, three.label] == [0, 2]
        assert [one.key, bad.key, three.key] == [0, 1, 2]
        assert isinstance(bad.error, ImageRefused)
        assert "item 1 of the dataset" in str(bad.error)
        assert "truncated" in str(bad.error)
        assert one.error is three.error is None

    def test_a_stream_of_pairs(self):
        assert keys_and_labels(Stream()) == [(0, 0), (1, 1), (2, 2)]

    def test_batches_of_a_loader_are_taken_apart(self):
        found = list(explain_many(net(), loader(), method="layercam"))
        assert [outcome.key for outcome in found] == [0, 1, 2, 3, 4]
        assert [outcome.label for outcome in found] == [0, 1, 2, 3, 0]
        alone = cam_hub.explain(net(), tensors(5)[2], method="layercam")
        np.testing.assert_allclose(found[2].explanation.cam(), alone.cam(), rtol=1e-5)

    def test_a_loader_without_labels_and_one_of_dictionaries(self):
        images = torch.rand(3, 3, 32, 32)
        assert keys_and_labels(DataLoader(TensorDataset(images), batch_size=2)) == [
            (0, None), (1, None), (2, None)
        ]  # fmt: skip
        rows = [{"image": image, "label": 3 - i, "id": f"r{i}"} for i, image in enumerate(images)]
        assert keys_and_labels(DataLoader(rows, batch_size=2)) == [("r0", 3), ("r1", 2), ("r2", 1)]

    def test_progress_counts_images_and_not_batches(self):
        assert len(open_samples(loader())) == 5

    @pytest.mark.parametrize(
        ("row", "key", "label"),
        [
            ({"image": picture(), "label": 2}, 0, 2),
            ({"img": picture(), "fine_label": "fox", "id": 7}, 7, "fox"),
            ({"image": {"bytes": encoded(), "path": "a/b.png"}, "label": 1}, "a/b.png", 1),
            ({"bytes": encoded(), "path": None}, 0, None),
            ({"__key__": "shard/0", "png": encoded(), "cls": b"3"}, "shard/0", "3"),
            ({"scan": picture(), "note": "text"}, 0, None),
        ],
    )
    def test_rows_of_data_sets(self, row, key, label):
        (outcome,) = explain_many(net(), [row], method="layercam")
        assert outcome.error is None
        assert (outcome.key, outcome.label) == (key, label)

    def test_a_row_without_an_image_is_an_error_of_its_own(self):
        bad, good = explain_many(net(), [{"text": "no"}, {"image": picture()}], method="layercam")
        assert "image" in str(bad.error)
        assert good.error is None

    def test_the_library_datasets(self, folder):
        datasets = pytest.importorskip("datasets")
        rows = {"image": [str(folder / "cat/a.png"), str(folder / "dog/a.png")], "label": [1, 0]}
        features = datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=["dog, puppy", "cat"])
        )
        data = datasets.Dataset.from_dict(rows, features=features)
        found = list(explain_many(net(), data, method="layercam", classes=expected))
        assert [outcome.label for outcome in found] == ["cat", "dog, puppy"]
        assert [outcome.explanation.classes for outcome in found] == [(0,), (1,)]
        with pytest.raises(InvalidArgument, match=r"splits.*'train'"):
            explain_many(net(), datasets.DatasetDict(train=data))


class TestPairs:
    @pytest.mark.parametrize(
        ("item", "key", "label"),
        [
            (("k", picture()), "k", None),
            ((17, picture()), 17, None),
            ((picture(), 3), 0, 3),
            ((picture(), np.int64(3)), 0, 3),
            ((picture(), "fox"), 0, "fox"),
            ((encoded(), torch.tensor(2)), 0, 2),
            (("k", picture(), 3), "k", 3),
            (("k", picture(), "fox"), "k", "fox"),
            ((picture(), 3, "file-7"), "file-7", 3),
            ((picture(), np.zeros((40, 36))), 0, None),
            ((picture(), {"boxes": []}), 0, None),
            ((picture(),), 0, None),
            (("a.png", 3), "a.png", 3),
            (("a.png", "fox"), "a.png", "fox"),
            (("k", "a.png"), "k", None),
            (("k.png", "a.png"), "k.png", None),
        ],
    )
    def test_what_goes_with_an_image_is_its_key_or_its_label(self, item, key, label):
        assert keys_and_labels([item]) == [(key, label)]

    def test_a_mapping_of_keys_to_images(self):
        assert keys_and_labels({"one": picture(), "two": picture()}) == [
            ("one", None), ("two", None)
        ]  # fmt: skip

    def test_a_list_is_a_single_clip_for_a_model_of_clips(self):
        clip = [picture(), picture()]
        assert [sample.picture for sample in open_samples([clip, ("k", clip)], clips=True)] == [
            clip, clip
        ]  # fmt: skip
        assert len(list(open_samples([clip]))) == 2


class TestExpected:
    def test_a_class_that_comes_with_one_image_is_explained_for_it(self):
        items = [("one", picture(), 2), ("two", picture(), "puppy"), ("three", picture(), "wolf")]
        one, two, three = explain_many(net(), items, method="layercam")
        assert one.explanation.classes == (2,)
        assert two.explanation.classes == (1,)
        assert isinstance(three.error, ClassNotFound)

    def test_a_label_is_explained_if_expected_is_requested(self, folder):
        predicted = [o.explanation.classes for o in explain_many(net(), folder, method="layercam")]
        found = list(explain_many(net(), folder, method="layercam", classes=[top(1), expected]))
        true = [(0,), (0,), (1,)]
        for outcome, seen, own in zip(found, predicted, true, strict=True):
            assert outcome.explanation.classes == tuple(dict.fromkeys(seen + own))

    def test_an_image_without_a_label_has_an_error_and_the_others_continue(self):
        bad, good = explain_many(net(), [picture(), (picture(), 1)], classes=expected)
        assert isinstance(bad.error, InvalidArgument)
        assert "labels" in str(bad.error)
        assert good.explanation.classes == (1,)

    def test_an_unknown_class_beside_it_is_refused_at_the_call(self):
        with pytest.raises(ClassNotFound):
            explain_many(net(), [picture()], classes=[expected, "wolf"])

    def test_explain_has_no_labels(self):
        with pytest.raises(InvalidArgument, match="explain_many"):
            cam_hub.explain(net(), picture(), classes=[top(1), expected])

    def test_class_folders_stand_in_the_order_of_their_names_for_a_model_without_labels(
        self, folder
    ):
        for name in ("bat", "eel"):
            (folder / name).mkdir()
            picture().save(folder / name / "a.png")
        found = [o.explanation.classes for o in explain_many(net(None), folder, classes=expected)]
        assert found == [(0,), (1,), (1,), (2,), (3,)]

    def test_fewer_folders_than_classes_do_not_have_an_order_in_common(self, folder):
        found = list(explain_many(net(None), folder, classes=expected))
        assert {type(outcome.error) for outcome in found} == {ClassNotFound}
        assert "4 classes" in str(found[0].error)
        assert "2 classes" in str(found[0].error)

    def test_wordnet_ids_name_the_classes_of_imagenet(self, lite0):
        names, scores = lite0.class_names, torch.zeros(1000)
        assert choose_classes(LabelledClass("n02123159"), scores, names) == [282]
        assert "tiger cat" in names[282]
        with pytest.raises(ClassNotFound):
            choose_classes(LabelledClass("n02123159"), scores, [f"part {i}" for i in range(1000)])
        with pytest.raises(ClassNotFound):
            choose_classes(LabelledClass("n00000000"), scores, names)
