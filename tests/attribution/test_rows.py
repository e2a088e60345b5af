"""The images of a job as a batch: the same numbers for every memory layout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import cam_hub
from cam_hub import METHODS
from cam_hub.attribution.passes import Job, Noise, Setting
from cam_hub.attribution.passes.job import rows_of, stacked
from cam_hub.attribution.preparation import make_job, prepare
from cam_hub.attribution.request import ExplainOptions
from tests.fakes.engine_nets import Pooled, Pyramid, noisy_copies, picture

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(scope="module")
def job() -> Job:
    torch.manual_seed(0)
    model = cam_hub.wrap_model(Pyramid(Pooled(5)), input_size=(3, 32, 32))
    request = ExplainOptions.checked(num_samples=3)
    method = METHODS["smoothgradcampp"]
    return make_job(model, prepare(model, picture(model)), [method], request)


def plain(job: Job) -> list[Tensor]:
    noise = job.noise
    assert noise is not None
    return [job.image, *noisy_copies(noise, job.image)]


@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_batch_is_the_image_and_its_noisy_copies_in_the_requested_format(job, memory_format):
    job = replace(job, setting=Setting(memory_format=memory_format))
    batch = stacked(list(rows_of(job)), job)
    assert torch.equal(batch, torch.cat(plain(job)))
    assert batch.is_contiguous(memory_format=memory_format)


def test_a_network_that_writes_to_its_batch_does_not_change_the_image(job):
    before = job.image.clone()
    stacked([(job.image, None)], job).zero_()
    assert torch.equal(job.image, before)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_noise_that_is_too_large_to_be_kept_is_the_same(job, memory_format, monkeypatch):
    noise = Noise(2, 0.3, 7)
    kept = list(noise.draws(job.image, memory_format))
    monkeypatch.setattr("cam_hub.attribution.passes.job._KEPT", 0)
    drawn = list(noise.draws(job.image, memory_format))
    assert all(torch.equal(*pair) for pair in zip(kept, drawn, strict=True))
