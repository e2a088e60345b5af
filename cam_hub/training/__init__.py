"""Explanations of a fixed set of images while a network is being trained.

| module | one job |
|---|---|
| ``explanation_logger`` | the public class: explains images every n steps, changes nothing else |
| ``sinks`` | where images and numbers go: TensorBoard, W&B, MLflow, trackio, a folder |
| ``callbacks`` | callbacks of Lightning and of ``transformers.Trainer`` |
"""
