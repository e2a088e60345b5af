"""Errors: readable, catchable, and with the data that a program needs."""

from __future__ import annotations

import pickle

import pytest

from cam_hub import errors
from cam_hub.errors import nearest_names

EXAMPLES = [
    errors.InvalidArgument("std", -1, "a number of at least 0"),
    errors.TooMuch("num_samples", 65, "1 to 64"),
    errors.ModelNotFound("timm/resnet5", ["timm/resnet50"], "Add the tag."),
    errors.LayerNotFound("layer9", ["layer4"]),
    errors.ClassNotFound(1000, hint="The model has classes 0 to 999."),
    errors.MethodNotFound("layercan", ["layercam"]),
    errors.ModelRefused("owner/name", "it is too large."),
    errors.ImageRefused("it is empty."),
    errors.NoMap("blank", layer="layer4"),
    errors.OutOfMemory("owner/name", "one image at a time does not fit."),
    errors.WorkerDied(3),
    errors.ClusterUnavailable("the cluster '10.0.0.1:6379' cannot be opened."),
    errors.RowNotFound("cat/1.jpg", ["cats/1.jpg"]),
    errors.PackageMissing("pyarrow", "A report", "pip install 'cam-hub[datasets]'"),
    errors.DiskUnavailable("the disk is full"),
    errors.SaveFailed("results", "No space left on device"),
    errors.HubUnavailable("owner/name", "time-out."),
    errors.SourceUnavailable("s3://bucket/photos", "access is denied"),
    errors.HubRefused("owner/name", "the access token is for reading."),
]


def test_every_class_of_the_module_has_an_example_here():
    exported = {getattr(errors, name) for name in errors.__all__} - {errors.CamHubError}
    assert {type(error) for error in EXAMPLES} == exported


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
class TestEveryError:
    def test_is_caught_as_a_cam_hub_error(self, error):
        assert isinstance(error, errors.CamHubError)

    def test_shows_its_message_unchanged(self, error):
        assert str(error) == error.message
        assert not str(error).startswith(("'", '"')) or not str(error).endswith(("'", '"'))

    def test_survives_the_way_to_another_process(self, error):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


def test_codes_distinguish_the_kinds():
    assert len({error.code for error in EXAMPLES}) == len(EXAMPLES)


def test_errors_can_be_caught_as_the_builtin_that_fits():
    assert issubclass(errors.InvalidArgument, ValueError)
    assert issubclass(errors.ImageRefused, ValueError)
    assert issubclass(errors.LayerNotFound, LookupError)
    assert issubclass(errors.MethodNotFound, KeyError)
    assert issubclass(errors.HubUnavailable, ConnectionError)
    assert issubclass(errors.SaveFailed, OSError)


def test_a_hostile_value_cannot_flood_the_message():
    assert len(str(errors.LayerNotFound("x" * 100_000))) < 200


@pytest.mark.parametrize("kind", [errors.LayerNotFound, errors.ClassNotFound])
def test_a_name_without_close_matches_gets_the_valid_ones(kind: type[errors.CamHubError]):
    assert "work" in str(kind("zzz"))
    assert str(kind("zzz", hint="The model has none.")).endswith("'zzz'. The model has none.")


def test_nearest_names_are_found_whatever_the_case_and_by_their_parts():
    known = ["layer1", "layer4", "conv1", "fc"]
    assert nearest_names("LAYER44", known)[0] == "layer4"
    assert nearest_names("conv", known) == ["conv1"]
    assert nearest_names("zzz", known) == []
    assert nearest_names("", known) == []


def test_no_more_names_are_suggested_than_asked_for():
    assert len(nearest_names("layer", [f"layer{i}" for i in range(50)], limit=3)) == 3
