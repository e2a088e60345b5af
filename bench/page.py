"""The time to redraw a result on the server: ``python -m bench.page``.

Runs the default model on a photo of twelve megapixels at the ends of its stages, for two classes,
and times the page's handlers, without the network between server and browser.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cam_hub
from cam_hub.images.decoding import open_image
from space.components.viewer import Preview, map_strip_html, viewer_html
from space.config.settings import example_photos
from space.service.explainer import Labels
from space.service.exports import Exports
from space.service.views import VIEWS, DisplayOptions

_SIZE = (4000, 3000)
_TURNS = 15


def main() -> None:
    """Prints a table: the median and the maximum of several turns, in milliseconds."""
    photo = open_image(Path(example_photos()[0])).resize(_SIZE)
    model = cam_hub.load_model(cam_hub.DEFAULT_MODEL)
    result = cam_hub.explain(
        model, photo, method="layercam", target_layers="stages", classes=cam_hub.top(2)
    )
    screen = Preview(result)
    plain = DisplayOptions()
    viewer_html(screen, plain, "")  # loads the colour maps, as for the first visitor
    other, layer = result.classes[1], result.layers[2]
    rows: dict[str, Callable[[], object]] = {
        "another class": lambda: viewer_html(screen, replace(plain, class_index=other), ""),
        "another layer": lambda: viewer_html(screen, replace(plain, layer=layer), ""),
        "opacity": lambda: viewer_html(screen, replace(plain, alpha=0.8), ""),
        "colour map": lambda: viewer_html(screen, replace(plain, colormap="viridis"), ""),
        "one scale": lambda: viewer_html(screen, replace(plain, scale="common", layer=layer), ""),
        **{
            f"view: {words}, threshold 0.3": lambda view=view: viewer_html(  # type: ignore[misc]
                screen, replace(plain, view=view, threshold=0.3), ""
            )
            for view, words in VIEWS.items()
        },
        f"strip of {len(result.layers) + 1} maps": lambda: map_strip_html(screen, plain),
    }
    labels = Labels([f"label number {index}, of many" for index in range(21_000)])
    rows["search in 21,000 labels"] = lambda: labels.find("number 99", 60)
    print("| change | median, ms | slowest, ms |\n|---|---|---|")
    for name, call in rows.items():
        _print(name, [_timed(call) for _ in range(_TURNS)])
    with tempfile.TemporaryDirectory() as folder:
        result.save_data(Path(folder))
        exact = Exports(result, Path(folder), 0.5, "jet")
        _print("file: overlay of 12 megapixels", [_timed(lambda: exact.overlay(result.classes[0]))])
        _print("file: everything", [_timed(exact.archive)])


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begin)


def _print(name: str, times: list[float]) -> None:
    print(f"| {name} | {statistics.median(times):.0f} | {max(times):.0f} |", flush=True)


if __name__ == "__main__":
    main()
