"""Callbacks, in trainers of Lightning and transformers where these are installed."""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cam_hub
from cam_hub import ExplanationLogger
from tests.fakes.trained import SIDE, Collected, Net, pictures, wrap

CASES = [("step", 4, [0, 4, 6]), ("step", 100, [0, 6]), ("epoch", 1, [0, 3, 6])]
"""Unit, every, and the steps that are logged in two epochs of three steps."""


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request) -> Any:
    return pytest.importorskip(request.param)


def fit(lightning: Any, folder: Path, **given: Any) -> dict[str, Tensor]:
    """Trains a module; returns its weights."""

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: Any, _: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    torch.manual_seed(0)
    module = Module()
    data = torch.utils.data.TensorDataset(torch.randn(12, 3, SIDE, SIDE), torch.randint(3, (12,)))
    loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        accumulate_grad_batches=2,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **{"logger": False} | given,
    )
    trainer.fit(module, loader, loader)
    return module.state_dict()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("unit", "every", "steps"), CASES)
def test_lightning_trains_as_without(lightning, tmp_path, unit: Any, every: int, steps: list[int]):
    seen, images = Collected(), torch.randn(2, 3, SIDE, SIDE)
    log = ExplanationLogger(None, images, to=seen, every=every, unit=unit)
    logged = fit(lightning, tmp_path, callbacks=[log.for_lightning()])
    alone = fit(lightning, tmp_path)
    assert {step for _, step in seen.images} == set(steps)
    assert all(torch.equal(logged[name], value) for name, value in alone.items())


@pytest.mark.filterwarnings("ignore")
def test_lightnings_own_loggers_are_the_default(lightning, tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = import_module(f"{lightning.__name__}.loggers")
    board = loggers.TensorBoardLogger(tmp_path)
    table = loggers.CSVLogger(tmp_path / "csv")
    log = ExplanationLogger(None, torch.randn(2, 3, SIDE, SIDE), every=4)
    fit(lightning, tmp_path, callbacks=[log.for_lightning()], logger=[board, table])
    events = EventAccumulator(board.log_dir, {"images": 0, "scalars": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == {"explanations/0", "explanations/1"}
    assert [event.step for event in events.Images("explanations/0")] == [0, 4, 6]
    assert "explanations/mean_focus" in (Path(table.log_dir) / "metrics.csv").read_text()


@pytest.mark.filterwarnings("ignore")
def test_a_module_without_a_forward_pass_is_trained_all_the_same(lightning, tmp_path, caplog):
    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.net(batch[0]).square().sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters())

    seen = Collected()
    log = ExplanationLogger(None, torch.randn(2, 3, SIDE, SIDE), to=seen)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, SIDE, SIDE))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[log.for_lightning()],
        default_root_dir=tmp_path,
    )  # fmt: skip
    with caplog.at_level("WARNING", "cam_hub"):
        trainer.fit(Module(), torch.utils.data.DataLoader(data))
    assert trainer.global_step == 4
    assert not seen.images
    assert "step 0" in caplog.text


def test_a_callback_can_be_pickled(lightning):
    log = ExplanationLogger(wrap(Net()), pictures(), to=Collected(), every=7)
    copied = pickle.loads(pickle.dumps(log.for_lightning()))
    assert isinstance(copied, import_module("lightning.pytorch").Callback | lightning.Callback)
    assert copied.explanations.every == 7


class TestTransformers:
    @pytest.fixture
    def transformers(self) -> Any:
        pytest.importorskip("accelerate")
        return pytest.importorskip("transformers")

    def train(self, transformers: Any, folder: Path, **given: Any) -> Any:
        """Trains a small ViT for two epochs of three steps."""
        torch.manual_seed(0)
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            image_size=SIDE, patch_size=4, num_labels=3,
            id2label=dict(enumerate(["red", "green", "blue"])), hidden_dropout_prob=0.1,
        )  # fmt: skip
        rows = [
            {"pixel_values": torch.randn(3, SIDE, SIDE), "labels": index % 3} for index in range(12)
        ]
        report_to = given.pop("report_to", "none")
        trainer = transformers.Trainer(
            transformers.ViTForImageClassification(config),
            transformers.TrainingArguments(
                output_dir=folder, use_cpu=True, num_train_epochs=2, report_to=report_to,
                per_device_train_batch_size=4, save_strategy="no", disable_tqdm=True,
            ),
            train_dataset=rows,
            **given,
        )  # fmt: skip
        trainer.train()
        return trainer.model

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(("unit", "every", "steps"), CASES)
    def test_it_trains_as_without(self, transformers, tmp_path, unit, every, steps):
        seen = Collected()
        log = ExplanationLogger(
            None, pictures(), to=seen, every=every, unit=unit, classes=["red", "blue"]
        )
        logged = self.train(transformers, tmp_path, callbacks=[log.for_transformers()])
        alone = self.train(transformers, tmp_path).state_dict()
        assert {step for _, step in seen.images} == set(steps)
        assert {tag.rpartition("/")[2] for tag, _ in seen.scalars} == {"red", "blue", "mean_focus"}
        assert all(torch.equal(logged.state_dict()[name], value) for name, value in alone.items())

    @pytest.mark.filterwarnings("ignore")
    def test_the_image_processor_is_the_preprocessing(self, transformers, tmp_path):
        seen = Collected()
        processor = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
        log = ExplanationLogger(None, pictures(), to=seen, classes=["blue"])
        model = self.train(
            transformers, tmp_path, callbacks=[log.for_transformers()], processing_class=processor
        )
        model.eval()
        for name, image in pictures().items():
            with torch.no_grad():
                scores = model(**processor(image, return_tensors="pt")).logits
            expected = float(scores.softmax(1)[0, 2])
            found = seen.scalars[f"explanations/{name}/probability", 6]
            assert found == pytest.approx(expected, rel=1e-4)

    @pytest.mark.filterwarnings("ignore")
    def test_it_logs_where_the_trainer_reports_to(self, transformers, tmp_path: Path, caplog):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log = ExplanationLogger(None, pictures(), every=4)
        self.train(
            transformers, tmp_path, callbacks=[log.for_transformers()], report_to=["tensorboard"]
        )
        found = []
        for path in tmp_path.rglob("events.out.tfevents.*"):
            events = EventAccumulator(str(path), {"images": 0})
            events.Reload()
            if "explanations/square-0.png" in events.Tags()["images"]:
                found += [each.step for each in events.Images("explanations/square-0.png")]
        assert found == [0, 4, 6]

    @pytest.mark.filterwarnings("ignore")
    def test_a_trainer_that_reports_nowhere_is_a_warning(self, transformers, tmp_path, caplog):
        log = ExplanationLogger(None, pictures())
        with caplog.at_level("WARNING", "cam_hub"):
            self.train(transformers, tmp_path, callbacks=[log.for_transformers()])
        assert "report_to" in caplog.text


def test_a_missing_package_is_named(monkeypatch):
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("cam_hub.training.callbacks.import_module", missing)
    log = ExplanationLogger(wrap(Net()), pictures(), to=Collected())
    with pytest.raises(cam_hub.errors.PackageMissing, match="pip install lightning"):
        log.for_lightning()
    with pytest.raises(cam_hub.errors.PackageMissing, match="pip install transformers"):
        log.for_transformers()
