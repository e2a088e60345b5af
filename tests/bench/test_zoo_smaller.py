"""Expensive models are checked with a smaller input, if they accept one."""

from __future__ import annotations

import torch
from torch import nn

import cam_hub
from bench.zoo import plan
from bench.zoo.check import check_model
from bench.zoo.plan import Candidate
from bench.zoo.report import render_report
from bench.zoo.smaller import smaller


def test_only_what_costs_more_is_marked():
    models = [
        Candidate("timm", "cheap", "f", macs=10),
        Candidate("timm", "costly", "f", macs=11),
        Candidate("timm", "unknown", "f"),
    ]
    assert [each.reduced for each in plan.reduced(models, 10)] == [False, True, False]
    assert not any(each.reduced for each in plan.reduced(models, None))


def test_a_network_of_fixed_size_is_built_for_the_smaller_one_and_the_report_states_this():
    candidate = Candidate("timm", "vit_tiny_patch16_384", "vision_transformer", reduced=True)
    row = check_model(candidate)
    assert row.status == "passed", row.reasons
    assert (row.input_size, row.default_size) == ([3, 224, 224], [3, 384, 384])
    assert row.grid == [14, 14]
    report = render_report([candidate], [row], 10**9)
    assert "`vit_tiny_patch16_384` (224×224 for 384×384)" in report


def test_a_network_of_any_size_is_used_unchanged():
    model = cam_hub.load_model("resnet18d", pretrained=False, device="cpu")
    own = cam_hub.wrap_model(model.module, input_size=(3, 288, 288))
    assert smaller(own, Candidate("ours", "resnet18d", "")).input_size == (3, 224, 224)
    assert smaller(own, Candidate("ours", "resnet18d", "")).module is model.module


def test_a_network_that_takes_no_other_size_keeps_its_own():
    fixed = nn.Sequential(nn.Conv2d(3, 2, 32, 32), nn.Flatten(), nn.Linear(2 * 9 * 9, 5))
    own = cam_hub.wrap_model(fixed, input_size=(3, 288, 288))
    assert smaller(own, Candidate("ours", "fixed", "")) is own


def test_an_input_that_is_small_already_stays():
    own = cam_hub.wrap_model(nn.Conv2d(3, 2, 3), input_size=(3, 224, 300))
    assert smaller(own, Candidate("ours", "small", "")) is own


def test_clips_are_not_changed():
    own = cam_hub.wrap_model(nn.Conv3d(3, 2, 3), input_size=(3, 4, 300, 300))
    assert smaller(own, Candidate("ours", "clips", "")) is own


def test_what_was_tried_leaves_the_model_as_it_was():
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(7, 5)).train()
    own = cam_hub.wrap_model(module, input_size=(3, 288, 288))
    smaller(own, Candidate("ours", "fixed", ""))
    assert module.training
    assert all(weight.requires_grad for weight in module.parameters())
    assert not torch.is_inference_mode_enabled()
