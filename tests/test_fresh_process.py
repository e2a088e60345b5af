"""What shows only in another process: what importing imports, and what may be missing.

One process answers all of these questions, since each imports torch, which takes seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from tests.layers.test_cache_key import key_of, vit

ROOT = Path(__file__).resolve().parent.parent

CODE = """
import json, sys
for name in ('gradio', 'gradio_client', 'torchcam', 'space', 'pandas'):
    sys.modules[name] = None  # as if it were not installed

def loaded(*names):
    return [name for name in names if name in sys.modules]

import cam_hub
found = {'by importing': loaded('torch', 'timm', 'numpy')}
cam_hub.top(3)
found['by choosing classes'] = loaded('torchvision')
import cam_hub.results.montage
found['by importing montage'] = loaded('matplotlib')

import numpy
model = cam_hub.load_model('test_vit', pretrained=False, device='cpu')
photo = numpy.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype='uint8')
found['size'] = cam_hub.explain(model, photo, method='layercam').overlay().size

import torch, torchvision
from tests.layers.test_cache_key import key_of, vit
with torch.device('meta'):
    found['keys'] = [key_of(vit()), key_of(torchvision.models.resnet18())]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The answers of a process in which names have other hashes."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_importing_the_package_imports_neither_torch_nor_timm_nor_numpy(found):
    assert found["by importing"] == []


def test_choosing_classes_does_not_import_torchvision(found):  # which takes a second
    assert found["by choosing classes"] == []


def test_importing_the_package_does_not_import_matplotlib(found):
    assert found["by importing montage"] == []


def test_the_library_works_without_gradio_and_torchcam(found):
    assert found["size"] == [99, 99]


def test_another_process_gives_the_same_key_of_the_layer_cache(found):
    with torch.device("meta"):
        resnet = torchvision.models.resnet18()
    assert found["keys"] == [key_of(vit()), key_of(resnet)]
