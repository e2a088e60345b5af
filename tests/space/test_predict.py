"""``/predict`` through gradio_client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import cam_hub


def predict(client: Client, photo: Path, **changed: Any) -> Any:
    return client.predict(handle_file(photo), api_name="/predict", **changed)


def test_it_returns_the_classes_and_the_models_input(
    client: Client, photo: Path, lite0: cam_hub.LoadedModel
):
    rows, facts = predict(client, photo, top=3)
    direct = cam_hub.predict(lite0, photo, top=3)
    # Two loads of a model may use different memory formats, which changes the last digits.
    assert rows == [
        {
            **vars(found),
            "probability": pytest.approx(found.probability, rel=1e-6),
            "score": pytest.approx(found.score, rel=1e-5),
        }
        for found in direct.predictions
    ]
    assert facts == {
        "photo_size": [256, 256],
        "input_size": [3, 224, 224],
        "seen": [16, 16, 240, 240],
        "target": direct.target,
        "output": None,
    }


def test_five_classes_unless_more_are_asked_for(client: Client, photo: Path):
    assert len(predict(client, photo)[0]) == 5
    assert len(predict(client, photo, top=100)[0]) == 100


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"top": 0}, "invalid_argument"),
        ({"top": 101}, "too_much"),
        ({"top": 1.5}, "invalid_argument"),
        ({"model_id": "torchvision/resnet5"}, "model_not_found"),
    ],
    ids=str,
)
def test_what_does_not_work_has_a_code(
    client: Client, photo: Path, changed: dict[str, Any], code: str
):
    with pytest.raises(AppError) as caught:
        predict(client, photo, **changed)
    assert caught.value.title == code


def test_the_endpoint_documents_its_values(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)
    endpoint = info["named_endpoints"]["/predict"]
    assert {p["parameter_name"]: p["python_type"]["type"] for p in endpoint["parameters"]} == {
        "image": "filepath",
        "model_id": "str",
        "top": "int",
        "output": "str",
    }
    assert [value["label"] for value in endpoint["returns"]] == ["predictions", "facts"]
    everything = [*endpoint["parameters"], *endpoint["returns"]]
    assert all(len(value["python_type"]["description"]) > 10 for value in everything)
