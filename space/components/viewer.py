"""A result at the size in which it is shown: the viewer and the strip of maps."""

from __future__ import annotations

import base64
import html
import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cam_hub.errors import NoMap
from cam_hub.faithfulness import Evidence
from cam_hub.images.geometry import Placement
from cam_hub.results import overlay
from cam_hub.results.comparison_grid import short_label
from cam_hub.results.explanation import Explanation
from cam_hub.results.overlay import colormap_table, fitting
from space.components.style import html_view
from space.service.views import SCALES, DisplayOptions

__all__ = [
    "Preview",
    "PreviewCache",
    "Span",
    "build_map_strip",
    "build_viewer",
    "data_uri",
    "map_strip_html",
    "number",
    "reduced",
    "viewer_html",
]


_SHOWN_SIDE = 1024  # pixels of the longer side
_THUMB_SIDE = 144
_THUMB_ALPHA = 0.6
_SPECK = 0.001  # of the photo's pixels; fine maps have many smaller places, which hide the others


@dataclass(frozen=True)
class Span:
    """The values at both ends of the colours, in the map's own units."""

    low: float
    high: float


class Preview:
    """One explanation, ready to be looked at.

    Attributes:
        evidence: The maps that were tested, by class and layer as ``DisplayOptions.at`` names them.

    Args:
        result: The explanation, at any size.
    """

    def __init__(self, result: Explanation) -> None:
        self.result = reduced(result, _SHOWN_SIDE)
        self._spans: dict[tuple[int, str | None, str], Span] = {}
        self.evidence: dict[tuple[int, str | None], Evidence] = {}
        if (stored := result.manifest.get("evidence")) is not None:
            found = Evidence.from_dict(stored)
            layer = result.layers[0] if len(result.layers) == 1 else found.layer
            self.evidence[found.class_index, layer] = found

    def span(self, look: DisplayOptions) -> Span:
        """Between which values the colours run.

        Raises:
            NoMap: If the map is blank, flat or not finite.
        """
        index, layer = look.at(self.result)
        key = index, layer, look.scale
        if key not in self._spans:
            ends = self.result.limits(index, layer)  # raises if the map is blank
            if look.scale != "own":
                ends = self.result.common_limits(layer)
            self._spans[key] = Span(*ends)
        return self._spans[key]

    def picture(self, look: DisplayOptions) -> Image.Image:
        """What is shown, RGB.

        Raises:
            NoMap: As ``span``.
        """
        result = self.result
        heat = self._heat(result, look, nearest=look.view == "map")
        if look.view == "cutout":
            return overlay.cutout(result.photo, overlay.mask(self._for(heat), look.threshold))
        alpha = 1.0 if look.view == "map" else look.alpha
        colormap = fitting(look.colormap, signed=result.signed)
        painted = overlay.overlay(
            result.photo, heat, alpha=alpha, colormap=colormap, seen=result.seen
        )
        if look.view == "boxes":
            boxes = overlay.boxes(self._for(heat), look.threshold, min_area=_SPECK)
            return overlay.draw_boxes(painted, boxes)
        return painted

    def thumbnail(self, look: DisplayOptions) -> Image.Image:
        """The map over a small copy of the photo, at an opacity of its own.

        Raises:
            NoMap: As ``span``.
        """
        small = self._small
        return overlay.overlay(
            small.photo,
            self._heat(small, look),
            alpha=_THUMB_ALPHA,
            colormap=fitting(look.colormap, signed=small.signed),
            seen=small.seen,
        )

    def regions(self, look: DisplayOptions) -> tuple[int, float]:
        """How many places reach the threshold, but for specks, and which part of the photo does."""
        heat = self._for(self._heat(self.result, look))
        mask = overlay.mask(heat, look.threshold)
        boxes = overlay.boxes(heat, look.threshold, min_area=_SPECK)
        return len(boxes), float(mask.mean())

    def hottest(self, look: DisplayOptions) -> tuple[float, float]:
        """Where the map is hottest: across and down the photo, in [0, 1]."""
        heat = self._heat(self._small, look)
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        return (column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0]

    def _for(self, heat: NDArray[np.float32]) -> NDArray[np.float32]:
        """The evidence for the class, from 0 to 1; for a signed map, the half above its middle."""
        return np.maximum(2 * heat - 1, 0) if self.result.signed else heat

    def _heat(
        self, result: Explanation, look: DisplayOptions, *, nearest: bool = False
    ) -> NDArray[np.float32]:
        index, layer = look.at(result)
        span = self.span(look)
        cam = (result.cam(index, layer) - span.low) / (span.high - span.low)
        return result.placement.warp(cam, interpolation="nearest" if nearest else "bilinear")

    @cached_property
    def _small(self) -> Explanation:
        return reduced(self.result, _THUMB_SIDE)


class PreviewCache:
    """Screens by the folder of their result; the least recently used are read again when needed.

    Args:
        read: Reads the explanation in a folder.
        most: How many are held, each of some 3 MB.
    """

    def __init__(self, read: Callable[[Path], Explanation], most: int = 24) -> None:
        self._read = read
        self._most = most
        self._held: OrderedDict[Path, Preview] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, folder: Path, result: Explanation) -> Preview:
        """Holds the screen of a result that has just been made."""
        screen = Preview(result)
        with self._lock:
            self._held[folder] = screen
            self._held.move_to_end(folder)
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return screen

    def get(self, folder: Path) -> Preview:
        """The screen of the result in a folder.

        Raises:
            InvalidArgument: As ``read``, if the folder is gone.
        """
        with self._lock:
            screen = self._held.get(folder)
            if screen is not None:
                self._held.move_to_end(folder)
        return screen if screen is not None else self.put(folder, self._read(folder))


def reduced(result: Explanation, side: int) -> Explanation:
    """The same explanation of a smaller copy of the photo: maps lie where they lay.

    Args:
        result: The explanation.
        side: Pixels that the longer side may have; a smaller photo stays as it is.
    """
    width, height = result.photo.size
    if max(width, height) <= side:
        return result.showing(result.photo)
    size = (
        max(1, round(width * side / max(width, height))),
        max(1, round(height * side / max(width, height))),
    )
    photo = result.photo.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    placement = result.placement
    scale = (placement.scale[0] * width / size[0], placement.scale[1] * height / size[1])
    return result.showing(
        photo, placement=Placement(size, placement.input_size, scale, placement.offset)
    )


def data_uri(picture: Image.Image, quality: int = 90) -> str:
    """A picture inside of a page: JPEG, since what is taken away is made anew and exact."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


_PLACES = (("upper left", "upper middle", "upper right"),
           ("left", "middle", "right"),
           ("lower left", "lower middle", "lower right"))  # fmt: skip


def build_viewer() -> gr.HTML:
    """Builds the picture where it is called; its value is what ``viewer_html`` makes."""
    return html_view("viewer", _CSS, _JS)


def viewer_html(screen: Preview, look: DisplayOptions, photo: str) -> str:
    """The figure as HTML.

    Args:
        screen: The result.
        look: How it is looked at.
        photo: Address of the photo at the screen's size.

    Returns:
        HTML; where there is no map, the photo with the reason below it.
    """
    width, height = screen.result.photo.size
    shape = f"aspect-ratio: {width} / {height}; --shape: {width / height:.4f}"
    before = f'<img class="before" src="{html.escape(photo)}" alt="The photo that was explained.">'
    try:
        picture, text = data_uri(screen.picture(look)), _description(screen, look)
    except NoMap as problem:
        words = html.escape(problem.message)
        return (
            f'<figure><div class="stage" style="{shape}">{before}</div>'
            f'<figcaption class="none"><strong>Nothing is painted.</strong> {words}</figcaption>'
            "</figure>"
        )
    return (
        f'<figure><div class="stage" style="{shape}">{before}'
        f'<img class="after" src="{picture}" alt="{html.escape(text)}">'
        '<span class="cut" aria-hidden="true"></span>'
        '<span class="grip" aria-hidden="true">◂▸</span>'
        '<input type="range" min="0" max="100" value="0" '
        'aria-label="Before and after: percent of the photo that is uncovered"></div>'
        f"<figcaption>{_legend(screen, look)}</figcaption></figure>"
    )


def _description(screen: Preview, look: DisplayOptions) -> str:
    """The picture in words, for those who do not see it."""
    index, _ = look.at(screen.result)
    across, down = screen.hottest(look)
    place = _PLACES[min(2, int(down * 3))][min(2, int(across * 3))]
    count, part = screen.regions(look)
    kind = {"cutout": "Cut-out of the photo", "map": "Raw map"}.get(look.view, "Heatmap over photo")
    return (
        f"{kind} for {screen.result.labels[index]}: hottest in the {place}; at or above "
        f"{look.threshold:.0%} of the scale {_places(count)}, {part:.0%} of the photo."
    )


def _legend(screen: Preview, look: DisplayOptions) -> str:
    index, layer = look.at(screen.result)
    span = screen.span(look)
    label = html.escape(short_label(screen.result.labels[index]))
    unit = "in units of the fusion, 0 to 1" if layer is None else "in the method's own units"
    scale = (
        "from this map's least to its greatest value"
        if look.scale == "own"
        else ("from 0 to 1" if layer is None else "from 0 to the greatest value of all maps here")
    )
    if (signed := screen.result.signed) and layer is not None:
        widest = "of this map" if look.scale == "own" else "of all maps here"
        scale = f"from minus to plus the largest magnitude {widest}"
    elif signed:
        scale, unit = "from -1 to 1", "in units of the fusion"
    lines = [f"Colours run {scale}, {unit}."]
    taken = fitting(look.colormap, signed=signed)
    if taken != look.colormap:
        lines.append(
            f"{taken} replaces {html.escape(look.colormap)}: a signed map needs a colour for zero."
        )
    mark = ""
    if look.view in ("boxes", "cutout"):
        count, part = screen.regions(look)
        at = (1 + look.threshold) / 2 if signed else look.threshold
        mark = f'<i style="left: {at:.1%}"></i>'
        lines.append(
            f"At or above {look.threshold:.0%} of the scale: {_places(count)}, "
            f"{part:.0%} of the photo."
        )
    if look.view == "map":
        grid = "×".join(map(str, screen.result.cam(index, layer).shape))
        lines.append(f"The cells of the layer's grid, {grid} (rows × columns), as they are.")
    if not screen.result.seen.all():
        lines.append("Hatched grey: the model's crop left it out, so nothing is known there.")
    side = "against" if screen.result.sign == "against" else "for"
    low, high = number(span.low), number(span.high)
    ends = f"cold, {low}", f"hot, {high}: strongest evidence {side} {label}"
    if signed:
        ends = f"{low}: strongest evidence against {label}", f"{high}: for it"
    colours = ", ".join(map("rgb({} {} {})".format, *colormap_table(taken)[::15].T))
    return (
        f'<div class="bar" role="img" aria-label="Colours from {ends[0]} to {ends[1]}" '
        f'style="background: linear-gradient(to right, {colours})">{mark}</div>'
        f'<div class="ends" aria-hidden="true"><span>{ends[0]}</span><span>{ends[1]}</span></div>'
        f"<p>{' '.join(lines)}</p>"
    )


def number(value: float) -> str:
    """A value in three digits, as people write it unless that takes many zeros."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _places(count: int) -> str:
    return "no place" if count == 0 else "one place" if count == 1 else f"{count} places"


_CSS = """
figure { margin: 0; }
.stage {
  position: relative; margin: 0 auto; overflow: hidden; border-radius: var(--radius-lg);
  width: min(100%, calc(min(27rem, 62vh) * var(--shape)));
  background: var(--background-fill-secondary);
}
.stage img {
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; display: block;
}
.stage .after { clip-path: inset(0 0 0 var(--cut, 0%)); }
.cut {
  position: absolute; top: 0; bottom: 0; left: clamp(1px, var(--cut, 0%), calc(100% - 1px));
  width: 2px; margin-left: -1px; background: #fff; box-shadow: 0 0 3px #000; pointer-events: none;
}
.grip {
  position: absolute; top: 50%; left: clamp(1.3rem, var(--cut, 0%), calc(100% - 1.3rem));
  transform: translate(-50%, -50%); padding: 0.2rem 0.35rem; border-radius: 1rem; color: #000;
  background: #fff; font-size: 0.8rem; line-height: 1; box-shadow: 0 0 4px rgb(0 0 0 / 60%);
  pointer-events: none;
}
.stage input {
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; touch-action: pan-y;
}
.stage:focus-within { outline: 3px solid var(--color-accent); outline-offset: 2px; }
.bar {
  position: relative; height: 0.8rem; margin-top: 0.6rem; border-radius: 0.2rem;
  border: 1px solid var(--border-color-primary);
}
.bar i {
  position: absolute; top: -4px; bottom: -4px; width: 3px; margin-left: -1px; background: #000;
  outline: 1px solid #fff;
}
.ends { display: flex; justify-content: space-between; gap: 1rem; font-size: 0.8rem;
  color: var(--body-text-color); }
.ends span:last-child { text-align: right; }
figcaption p { margin: 0.2rem 0 0; font-size: 0.8rem; line-height: 1.4;
  color: var(--body-text-color-subdued); }
.none { margin-top: 0.5rem; line-height: 1.45; color: var(--body-text-color); }
"""

# The slider lies over the picture, unseen: it is dragged with the pointer and moved with the keys.
_JS = """
element.addEventListener("input", (event) => {
  const stage = event.target.closest(".stage");
  if (stage) stage.style.setProperty("--cut", event.target.value + "%");
});
"""


_ALONE = (
    "<h3>Maps</h3><p>One layer, one map. <em>Target layers</em> takes several: <em>Stages</em>, "
    "for example, shows what each stage of the network looks at, and their fusion.</p>"
)


def build_map_strip() -> gr.HTML:
    """Builds the strip where it is called; fires ``select`` with ``layer``, "" for the fusion."""
    return html_view("maps", _STRIP_CSS, _STRIP_JS)


def map_strip_html(screen: Preview, look: DisplayOptions) -> str:
    """The strip as HTML: of one map only, how to get more.

    Args:
        screen: The result.
        look: The class, the colours and the scale, and which map is large.
    """
    names = screen.result.layers
    if len(names) == 1:
        return _ALONE
    index, large = look.at(screen.result)
    tiles = [_tile(screen, replace(look, layer=name), name == large) for name in (None, *names)]
    label = html.escape(short_label(screen.result.labels[index]))
    scale = SCALES[look.scale].lower()
    return (
        f"<h3>Maps for {label}</h3><p>Choose one to see it large. Colours: {scale}"
        f"{' (the fusion runs from 0 to 1)' if look.scale == 'common' else ''}.</p>"
        f"<ul>{''.join(tiles)}</ul>"
    )


def _tile(screen: Preview, look: DisplayOptions, is_large: bool) -> str:
    name = look.layer
    title = html.escape(name or f"fusion of {len(screen.result.layers)}")
    try:
        span = screen.span(look)
        picture = data_uri(screen.thumbnail(look), quality=85)
    except NoMap as problem:
        reason = html.escape(problem.reason)
        return f'<li class="none"><strong>{title}</strong><span>No map: {reason}</span></li>'
    index, _ = look.at(screen.result)
    grid = "×".join(map(str, screen.result.cam(index, name).shape))
    words = f"{grid}, {number(span.low)} to {number(span.high)}"
    return (
        f'<li><button type="button" aria-pressed="{str(is_large).lower()}" '
        f'data-layer="{html.escape(name or "")}"><img src="{picture}" alt="">'
        f"<strong>{title}</strong><span>{words}</span></button></li>"
    )


_STRIP_CSS = """
h3 { margin: 0; font-size: 1rem; color: var(--body-text-color); }
p { margin: 0.1rem 0 0.4rem; font-size: 0.8rem; color: var(--body-text-color-subdued); }
ul {
  list-style: none; margin: 0; padding: 3px; display: grid; gap: 0.5rem; max-height: 32rem;
  grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); overflow-y: auto;
}
li { margin: 0; min-width: 0; }
button, .none {
  display: flex; flex-direction: column; gap: 0.15rem; width: 100%; height: 100%; padding: 0.3rem;
  border: 2px solid var(--border-color-primary); border-radius: var(--radius-lg); text-align: left;
  background: var(--background-fill-primary); color: var(--body-text-color); font-size: 0.75rem;
  overflow-wrap: anywhere; line-height: 1.3;
}
.none { border-style: dashed; }
button { cursor: pointer; }
button:hover { background: var(--background-fill-secondary); }
button[aria-pressed="true"] { border-color: var(--color-accent); }
button:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 1px; }
img { display: block; width: 100%; margin: 0; border-radius: 0.3rem; }
span { color: var(--body-text-color-subdued); }
"""

# What is pressed is marked at once; the large picture follows.
_STRIP_JS = """
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("button");
  if (!chosen) return;
  for (const each of element.querySelectorAll("button")) {
    each.setAttribute("aria-pressed", each === chosen);
  }
  trigger("select", { layer: chosen.dataset.layer });
});
"""
