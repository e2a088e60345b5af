"""Facts before a download, refusals because of them, and progress during a download."""

from __future__ import annotations

import json

import pytest
import timm

import cam_hub
from cam_hub.errors import CamHubError, HubUnavailable, InvalidArgument, ModelNotFound, ModelRefused
from cam_hub.models.loading import UNLIMITED, LoadLimits, format_bytes
from tests.fakes.hub import FakeHub
from tests.fakes.hub.bread import REPO
from tests.fakes.hub.faults import Fault


def load(id: str = REPO, **options: object) -> cam_hub.LoadedModel:
    return cam_hub.load_model(id, device="cpu", **options)


def sizes(hub: FakeHub) -> dict[str, int]:
    return {name: len(body) for name, body in hub.repos[REPO].items()}


def parameters(name: str, **options: object) -> int:
    return sum(weight.numel() for weight in timm.create_model(name, **options).parameters())


def test_one_request_describes_a_repo(hub):
    facts = cam_hub.describe_model(REPO)
    assert [(call.method, call.path) for call in hub.calls] == [("GET", f"/api/models/{REPO}")]
    assert (facts.id, facts.source, facts.revision) == (REPO, "hub", hub.commit(REPO))
    assert (facts.licence, facts.library, facts.tags) == ("apache-2.0", "timm", ("timm",))
    assert (facts.gated, facts.private, facts.disabled, facts.downloads) == (False, False, False, 7)
    assert {file.name: file.size for file in facts.files} == sizes(hub)
    assert facts.weights_file == "model.safetensors"
    assert facts.weights_bytes == sizes(hub)["model.safetensors"]
    assert facts.fetch_bytes == sum(sizes(hub).values())
    # The Hub counts all values in the file, including batch statistics.
    assert facts.parameters >= parameters("test_resnet", num_classes=3)


def test_files_that_are_here_already_need_not_be_fetched(hub):
    load()
    assert cam_hub.describe_model(REPO).fetch_bytes == 0


def test_without_the_hub_the_cache_describes_what_it_holds(hub):
    load()
    hub.broken = True
    facts = cam_hub.describe_model(REPO)
    assert (facts.revision, facts.fresh) == (hub.commit(REPO), False)
    assert facts.weights_bytes == sizes(hub)["model.safetensors"]
    with pytest.raises(HubUnavailable):
        cam_hub.describe_model("baker/other")


def test_a_gated_repo_can_be_described_by_all_and_a_private_one_by_few(hub):
    hub.gated.add(REPO)
    assert cam_hub.describe_model(REPO).gated
    hub.private[REPO] = {"hf_baker"}
    with pytest.raises(ModelNotFound):
        cam_hub.describe_model(REPO)
    assert cam_hub.describe_model(REPO, token="hf_baker").private


def test_a_licence_of_another_name_is_given_by_its_name(hub):
    hub.facts[REPO] = {"cardData": {"license": "other", "license_name": "bread-1.0"}}
    assert cam_hub.describe_model(REPO).licence == "bread-1.0"


@pytest.mark.parametrize("facts", [{"cardData": None}, {"safetensors": None}, {"tags": None}])
def test_unknown_facts_are_left_open(hub, facts):
    hub.facts[REPO] = facts
    assert cam_hub.describe_model(REPO).revision == hub.commit(REPO)


def test_torchvisions_weights_describe_themselves(hub):
    facts = cam_hub.describe_model("torchvision/resnet50")
    assert (facts.revision, facts.parameters) == ("IMAGENET1K_V2", 25_557_032)
    assert facts.fetch_bytes == facts.weights_bytes == pytest.approx(102_540_417, rel=1e-3)
    assert hub.calls == []


def test_the_embedded_model_and_bare_architectures_are_described_without_a_request(hub):
    embedded = cam_hub.describe_model(cam_hub.DEFAULT_MODEL)
    assert (embedded.fetch_bytes, embedded.licence) == (0, "apache-2.0")
    assert embedded.parameters == parameters("tf_efficientnet_lite0")
    bare = cam_hub.describe_model("test_resnet", pretrained=False)
    assert (bare.parameters, bare.weights_bytes) == (parameters("test_resnet"), None)
    assert hub.calls == []


@pytest.mark.parametrize("id", ["torchvision/resnet51", "torchvision/resnet50@V9", "no_such_model"])
def test_what_does_not_exist_is_not_described(id):
    with pytest.raises(ModelNotFound):
        cam_hub.describe_model(id, pretrained="torchvision" in id)


LIMITS = {
    "parameters": (LoadLimits(parameters=1000), r"has [\d,]+ parameters, and at most 1,000 are"),
    "bytes": (LoadLimits(download_bytes=1000), r"[\d.]+ MB would.*at most 1\.0 kB are"),
    "disk": (LoadLimits(free_disk_bytes=10**18), r"of [\d.]+ [GT]B that are free.*must stay free"),
}


@pytest.mark.parametrize(("limits", "words"), LIMITS.values(), ids=LIMITS)
def test_expensive_models_are_refused_before_any_file_is_requested(hub, limits, words):
    with pytest.raises(ModelRefused, match=words):
        load(limits=limits)
    assert [call.path for call in hub.calls] == [f"/api/models/{REPO}"]


def test_unknown_parameter_counts_are_estimated_from_the_bytes(hub):
    hub.facts[REPO] = {"safetensors": None}
    with pytest.raises(ModelRefused, match=r"has about [\d,]+ parameters"):
        load(limits=LoadLimits(parameters=1000))


@pytest.mark.parametrize(
    ("id", "pretrained"), [("torchvision/resnet50", True), ("resnet50", False)]
)
def test_models_of_other_sources_are_refused_before_they_are_built(id, pretrained):
    with pytest.raises(ModelRefused, match=r"25,557,032 parameters, and at most 25,000,000"):
        load(id, pretrained=pretrained, limits=LoadLimits(parameters=25_000_000))


def test_weights_of_torchvision_count_as_a_download():
    with pytest.raises(ModelRefused, match=r"102\.5 MB would have to be fetched"):
        load("torchvision/resnet50", limits=LoadLimits(download_bytes=10**8))


@pytest.mark.parametrize("silent", [False, True])
def test_cached_files_are_not_counted_as_a_download_but_parameters_are(hub, silent):
    load()
    hub.broken = silent
    assert load(limits=LoadLimits(download_bytes=0, free_disk_bytes=10**18)).source == "hub"
    with pytest.raises(ModelRefused, match="parameters"):
        load(limits=LoadLimits(parameters=1000))


def without_safetensors(hub: FakeHub, **files: bytes) -> None:
    del hub.repos[REPO]["model.safetensors"]
    hub.repos[REPO].update({name.replace("__", "."): body for name, body in files.items()})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"model__safetensors__index__json": b"{}"}, r"in several files"),
        ({"pytorch_model__bin": b"pickle"}, r"only as a pickle"),
        ({"weights__h5": b"keras"}, r"no model\.safetensors"),
    ],
)
def test_weights_that_cannot_be_read_are_refused_unseen(hub, files, words):
    without_safetensors(hub, **files)
    with pytest.raises(ModelRefused, match=words):
        load(limits=LoadLimits(pickles=False))
    assert len(hub.calls) == 1


def test_a_configuration_of_absurd_size_is_refused_unseen(hub):
    hub.repos[REPO]["config.json"] = json.dumps({"architecture": " " * 17_000_000}).encode()
    with pytest.raises(ModelRefused, match=r"config\.json has 17,000,\d+ bytes"):
        load()
    assert len(hub.calls) == 1


def test_a_repo_out_of_service_is_refused(hub):
    hub.facts[REPO] = {"disabled": True}
    with pytest.raises(ModelRefused, match="out of service"):
        load()


class Heard:
    """Records its calls; raises an exception once enough bytes have been reported."""

    def __init__(self, stop: BaseException | None = None) -> None:
        self.parts: list[float] = []
        self.words: list[str] = []
        self.stop = stop

    def __call__(self, part: float, words: str) -> None:
        self.parts.append(part)
        self.words.append(words)
        if self.stop is not None:
            raise self.stop


def test_progress_grows_to_one_and_names_the_bytes(hub):
    heard = Heard()
    load(progress=heard)
    total = format_bytes(sum(sizes(hub).values()))
    assert heard.parts == sorted(heard.parts)
    assert heard.parts[-1] == 1.0
    assert heard.words[-1] == f"Fetching {REPO}: {total} of {total}"
    assert len(heard.parts) < 10  # although the bytes arrive in far more pieces


def test_progress_is_silent_where_nothing_is_fetched(hub):
    load()
    heard = Heard()
    load(progress=heard)
    assert heard.parts == []


class EnoughError(Exception):
    """The caller's own exception."""


@pytest.mark.parametrize(
    "stop", [EnoughError(), TimeoutError(), CamHubError("x"), KeyboardInterrupt()]
)
def test_what_the_progress_function_raises_ends_the_download_and_comes_out_unchanged(
    hub, hub_cache, stop
):
    with pytest.raises(type(stop)) as caught:
        load(progress=Heard(stop))
    assert caught.value is stop
    assert not list(hub_cache.rglob("snapshots/*/*"))
    assert load().revision == hub.commit(REPO)


def test_a_download_that_was_stopped_is_resumed(hub):
    size = sizes(hub)["model.safetensors"]
    heard = Heard()

    def stop_in_the_weights(part: float, words: str) -> None:
        heard(part, words)
        if len(heard.parts) > 1:  # the first report is the last about the configuration
            raise EnoughError

    hub.faults.append(Fault("safetensors", times=1, cut=size // 2))
    with pytest.raises(EnoughError):
        load(progress=stop_in_the_weights)
    hub.calls.clear()
    load()
    (asked,) = [call.headers["Range"] for call in hub.calls if "safetensors" in call.path]
    assert asked is not None


def test_the_environment_changes_limits():
    environ = {
        "CAM_HUB_PARAMETERS": "1_000",
        "CAM_HUB_DOWNLOAD_BYTES": "none",
        "CAM_HUB_FREE_DISK_BYTES": "",
        "CAM_HUB_PICKLES": "off",
        "CAM_HUB_KEEP_RESTRICTED": "No",
        "CAM_HUB_UNKNOWN": "x",
    }
    limits = LoadLimits(download_bytes=5, local=False).from_environment(environ=environ)
    assert limits == LoadLimits(
        parameters=1000, download_bytes=None, pickles=False, local=False, keep_restricted=False
    )
    assert UNLIMITED.from_environment(environ={}) == UNLIMITED


@pytest.mark.parametrize(
    ("name", "value"),
    [("PARAMETERS", "many"), ("PARAMETERS", "-1"), ("FREE_DISK_BYTES", "none"), ("LOCAL", "2")],
)
def test_a_variable_that_makes_no_sense_is_named(name, value):
    with pytest.raises(InvalidArgument, match=f"CAM_HUB_{name}='{value}'"):
        UNLIMITED.from_environment(environ={f"CAM_HUB_{name}": value})


@pytest.mark.parametrize(
    ("count", "words"),
    [(999, "999 bytes"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (10**15, "1000.0 TB")],
)
def test_bytes_are_readable(count, words):
    assert format_bytes(count) == words
