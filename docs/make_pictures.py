"""Generates the images of the README and the docs: real photos and the default model."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import gradio
import skimage.data
from PIL import Image

import cam_hub
from cam_hub.results.montage import montage

FOLDER = Path(__file__).parent / "images"


def photos() -> dict[str, Image.Image]:
    """Photos that come with Gradio and scikit-image."""
    ours = Path(gradio.__file__).parent / "media_assets" / "images"
    return {
        "lion": Image.open(ours / "lion.jpg"),
        "cheetah": Image.open(ours / "cheetah1.jpg"),
        "cat": Image.fromarray(skimage.data.chelsea()),
        "espresso": Image.fromarray(skimage.data.coffee()),
        "tripod": Image.fromarray(skimage.data.camera()),
        "moped": Image.fromarray(skimage.data.stereo_motorcycle()[0]),
    }


def gallery(model: cam_hub.LoadedModel) -> Image.Image:
    """Each photo next to its overlays by the two main methods."""
    tiles = []
    for name, photo in photos().items():
        tiles.append((name, photo.convert("RGB")))
        for method in ("smoothgradcampp", "layercam"):
            result = cam_hub.explain(model, photo, method=method)
            best = result.predictions[0]
            title = cam_hub.METHODS[method].title
            label = best.label.split(",")[0]
            tiles.append((f"{title}: {label} {best.probability:.0%}", result.overlay()))
    return montage(tiles, columns=6, tile_width=270)


def layers(model: cam_hub.LoadedModel) -> Image.Image:
    """One photo, by LayerCAM at the ends of the stages, and the fusion."""
    photo = photos()["cat"]
    return cam_hub.explain(model, photo, method="layercam", target_layers="stages").montage()


def compare_methods(model: cam_hub.LoadedModel) -> Image.Image:
    """All methods on one photo, on one scale."""
    return cam_hub.compare(model, photos()["cheetah"], methods=cam_hub.METHODS).figure()


def compare_classes(model: cam_hub.LoadedModel) -> Image.Image:
    """Likely classes and an absent one, by their values."""
    classes = ["tiger cat", "Egyptian cat", "tabby", "lion", "unicorn"]
    grid = cam_hub.compare(model, photos()["cat"], methods="layercam", classes=classes)
    return grid.figure("values")


def compare_layers(model: cam_hub.LoadedModel) -> Image.Image:
    """All convolutions, first to last; also as an animation."""
    grid = cam_hub.compare(model, photos()["lion"], methods="layercam", target_layers="convs")
    path = FOLDER / "compare_layers.webp"
    path.unlink(missing_ok=True)  # Git may have changed it; such files are kept
    grid.save_animation(path, tile_width=200)
    return grid.figure(tile_width=140)


def evidence(model: cam_hub.LoadedModel) -> Image.Image:
    """Three maps with the results of their tests, the first one of which is bad.

    The choice by evidence has seen all six photos before.
    """
    pictures = {name: photo.convert("RGB") for name, photo in photos().items()}
    list(cam_hub.explain_many(model, pictures.values()))
    tiles = []
    for name, method in (("cat", "layercam"), ("espresso", "auto"), ("lion", "auto")):
        result = cam_hub.explain(model, pictures[name], method=method)
        found = cam_hub.evidence(result, checks=["cover", "class_check"])
        print(f"{name}: {result!r}\n{found}\n{result.manifest.get('choice')}\n")
        title = f"{cam_hub.METHODS[result.method].title} at {result.layers[0]}"
        verdict = found.verdict.partition(":")[0]
        tiles.append(([title, verdict, *_halves(found["cover"].sentence)], result.overlay()))
    return montage(tiles, columns=3, tile_width=420)


def _halves(sentences: str) -> list[str]:
    return sentences.replace("of the image: ", "of the image:\n").replace(". ", ".\n").split("\n")


def main() -> None:
    """Writes all images."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CAM_HUB_CACHE"] = cache  # what earlier runs have learnt is not used
        _write()


def _write() -> None:
    model = cam_hub.load_model(cam_hub.DEFAULT_MODEL)
    for make in (gallery, layers, compare_methods, compare_classes, compare_layers, evidence):
        path = FOLDER / f"{make.__name__}.jpg"
        make(model).save(path, quality=88, optimize=True)
        print(path.name, path.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
