"""A comparison as HTML, with its style and its script.

Labels, names and reasons are escaped: visitors and authors of models chose them.
"""

from __future__ import annotations

import html
from collections.abc import Iterator

import numpy as np
from PIL import Image

from cam_hub.methods import METHODS
from cam_hub.results.comparison import Comparison
from cam_hub.results.comparison_grid import (
    SCALES,
    Cell,
    Cost,
    Row,
    Scale,
    cost_in_words,
    ends_of,
    is_signed,
    percent,
    percent_or_score,
    short_label,
    title_of,
)
from cam_hub.results.overlay import colorize, fitting
from space.components.viewer import data_uri

__all__ = ["GRID_CSS", "GRID_JS", "NO_GRID", "grid_html", "scale_choices", "tile_side"]

_SIDE, _SIDE_OF_MANY, _MANY = 400, 256, 16

NO_GRID = (
    '<p class="note" role="status">Choose models and columns and press <strong>Compare</strong>. '
    "Maps of several layers, or several classes, come out of one pass.</p>"
)

_SCALE_TITLES: dict[Scale, str] = {
    "shares": "One scale for all",
    "values": "Values, per model, method and layer",
    "own": "Each map on its own",
}

_FILM_FROM = 3  # maps, from which on a row can be played


def scale_choices() -> list[tuple[str, str]]:
    """The scales by their titles."""
    return [(title, name) for name, title in _SCALE_TITLES.items()]


def tile_side(grid: Comparison) -> int:
    """The maximum side of a picture in the grid, in pixels; smaller where there are many."""
    return _SIDE if len(grid.cells) <= _MANY else _SIDE_OF_MANY


def grid_html(grid: Comparison, scale: Scale, alpha: float, colormap: str) -> str:
    """The grid: what the colours mean, and a section per model with one figure per cell.

    Args:
        grid: The comparison, on a photo of the size in which it is shown.
        scale: What the colours of the maps have in common.
        alpha: Opacity of the overlays.
        colormap: Their colour map.

    Raises:
        InvalidArgument: If the look does not work.
    """
    pictures = grid.pictures(scale, alpha=alpha, colormap=colormap, max_side=tile_side(grid))
    sections = "".join(
        _section(row, grid.titles, shown) for row, shown in zip(grid.rows, pictures, strict=True)
    )
    legend = _legend(scale, colormap, signed=is_signed(grid.rows))
    return f'{legend}<div style="--columns: {len(grid.titles)}">{sections}</div>'


def _legend(scale: Scale, colormap: str, *, signed: bool) -> str:
    colormap = fitting(colormap, signed=signed)
    bar = colorize(np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(2, axis=0), colormap)
    cold, hot = map(html.escape, ends_of(scale, signed=signed))
    return (
        f'<p class="note" role="status">Colours: {html.escape(SCALES[scale])}.</p>'
        f'<p class="legend"><span>{cold}</span><img src="{data_uri(bar, 88)}" '
        f'alt="colours from cold to hot"><span>{hot}</span></p>'
    )


def _section(row: Row, titles: tuple[str, ...], pictures: tuple[Image.Image | None, ...]) -> str:
    if not any(pictures) and len({cell.reason for cell in row.cells}) == 1:
        cells = _nothing(row.cells[0].reason)  # once rather than in every cell
    else:
        cells = "".join(
            _figure(row, title, cell, picture)
            for title, cell, picture in zip(titles, row.cells, pictures, strict=True)
        )
    facts = " · ".join(_facts(row))
    film = _FILM if sum(picture is not None for picture in pictures) >= _FILM_FROM else ""
    model = html.escape(row.model)
    return (
        f'<section aria-label="{model}"><h3><code>{model}</code> <span>{facts}</span></h3>'
        f"{film}<ul>{cells}</ul></section>"
    )


def _facts(row: Row) -> Iterator[str]:
    if row.has_random_weights:
        yield "<strong>random weights: its maps mean nothing</strong>"
    if row.predictions:
        best = row.predictions[0]
        yield f"sees {html.escape(short_label(best.label))} {html.escape(percent_or_score(best))}"
    if row.forward_seconds is not None:
        yield f"one pass {row.forward_seconds:.3f} s"
    if (cost := _common_cost(row)) is not None:
        yield cost_in_words(cost)


def _figure(row: Row, title: str, cell: Cell, picture: Image.Image | None) -> str:
    name = html.escape(title_of(title, cell))
    if picture is None:
        return _nothing(cell.reason, f"<figcaption><strong>{name}</strong></figcaption>")
    label = html.escape(short_label(cell.label or ""))
    alt = (
        f"{METHODS[cell.method].title} of {html.escape(row.model)} at "
        f"{html.escape(cell.layer or '')} for {label}"
    )
    cam = cell.cam
    grid = "" if cam is None else "×".join(map(str, cam.shape))
    chance = "" if cell.probability is None else f" {html.escape(percent(cell.probability))}"
    layer = html.escape(cell.layer or "")
    lines = [
        f"{layer}, {grid}" if layer != name else grid,
        f"{label}{chance}",
        cost_in_words(cell.cost) if cell.cost and _common_cost(row) is None else "",
    ]
    words = "".join(f"<span>{line}</span>" for line in lines if line)
    return (
        f'<li><figure><img src="{data_uri(picture, 88)}" alt="{alt}">'
        f"<figcaption><strong>{name}</strong>{words}</figcaption></figure></li>"
    )


def _common_cost(row: Row) -> Cost | None:
    """That of the one piece of work that all maps of a row came out of, if it was one."""
    costs = {cell.cost for cell in row.cells} - {None}
    cost = costs.pop() if len(costs) == 1 else None
    return cost if cost is not None and cost.maps > 1 else None


def _nothing(reason: str, caption: str = "") -> str:
    whole = "" if caption else " whole"
    words = f"<p><strong>No map.</strong> {html.escape(reason)}</p>"
    return f'<li class="none{whole}"><figure>{words}{caption}</figure></li>'


_FILM = """
<details class="film"><summary>Show one after the other</summary>
<div class="screen" aria-live="off"></div>
<div class="deck"><button type="button" aria-pressed="false">Play</button>
<input type="range" min="0" value="0" step="1" aria-label="Map"></div></details>
"""

GRID_CSS = """
.note, .film summary { color: var(--body-text-color); }
.note { margin: 0 0 0.4rem; line-height: 1.5; overflow-wrap: anywhere; }
.legend {
  display: flex; align-items: center; gap: 0.5rem; margin: 0 0 0.6rem; font-size: 0.8rem;
  color: var(--body-text-color);
}
.legend img { flex: 0 1 14rem; min-width: 4rem; height: 0.8rem; border-radius: 2px; }
section { margin: 0 0 1rem; }
h3 { margin: 0 0 0.35rem; font-size: 0.95rem; font-weight: 600; line-height: 1.5; }
h3, h3 code { color: var(--body-text-color); overflow-wrap: anywhere; }
h3 span { font-weight: 400; font-size: 0.8rem; color: var(--body-text-color); }
ul {
  display: grid; gap: 0.6rem; margin: 0; padding: 0; list-style: none;
  grid-template-columns: repeat(
    auto-fill, minmax(max(8.5rem, 100% / min(var(--columns), 5) - 0.6rem), 1fr));
}
li { margin: 0; min-width: 0; }
figure {
  margin: 0; height: 100%; overflow: hidden; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-md); background: var(--background-fill-primary);
}
figure img { display: block; width: 100%; height: auto; margin: 0; }
figcaption {
  display: flex; flex-direction: column; padding: 0.35rem 0.5rem; font-size: 0.78rem;
  line-height: 1.4; color: var(--body-text-color); overflow-wrap: anywhere;
}
.none figure { display: flex; flex-direction: column; justify-content: space-between; }
.none p {
  margin: 0; padding: 0.5rem; flex: 1; font-size: 0.8rem; line-height: 1.45;
  color: var(--body-text-color); background: var(--background-fill-secondary);
  overflow-wrap: anywhere;
}
.whole { grid-column: 1 / -1; }
.film { margin: 0 0 0.4rem; }
.film summary { cursor: pointer; padding: 0.2rem 0; font-size: 0.85rem; }
.film summary:focus-visible, .film button:focus-visible, .film input:focus-visible {
  outline: 2px solid var(--color-accent); outline-offset: 2px;
}
.screen { max-width: 420px; }
.deck { display: flex; gap: 0.6rem; align-items: center; max-width: 420px; padding: 0.4rem 0; }
.deck input { flex: 1; min-width: 0; accent-color: var(--color-accent); }
.deck button {
  min-width: 4.2rem; padding: 0.25rem 0.6rem; cursor: pointer; font-size: 0.85rem;
  color: var(--body-text-color); background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-md);
}
"""
"""Style of the grid; Gradio confines it to the component."""

# Runs once; the grid changes below it. A film shows the figures of its own section, one at a time:
# copies of what stands there, so that nothing is loaded again.
GRID_JS = """
const parts = (film) => ({
  figures: [...film.closest("section").querySelectorAll("ul figure")],
  screen: film.querySelector(".screen"), slider: film.querySelector("input"),
  button: film.querySelector("button"),
});
const show = (film, at) => {
  const { figures, screen, slider } = parts(film);
  slider.max = figures.length - 1;
  slider.value = at;
  screen.replaceChildren(figures[at].cloneNode(true));
  const name = figures[at].querySelector("figcaption strong").textContent;
  slider.setAttribute("aria-valuetext", `${at + 1} of ${figures.length}: ${name}`);
};
const pause = (film) => {
  clearInterval(film.timer);
  film.timer = 0;
  const { button } = parts(film);
  button.textContent = "Play";
  button.setAttribute("aria-pressed", "false");
};
const play = (film) => {
  const { button } = parts(film);
  button.textContent = "Pause";
  button.setAttribute("aria-pressed", "true");
  film.timer = setInterval(() => {
    if (!film.isConnected) return clearInterval(film.timer);
    const { figures, slider } = parts(film);
    show(film, (Number(slider.value) + 1) % figures.length);
  }, 600);
};
element.addEventListener("toggle", (event) => {
  const film = event.target.closest(".film");
  if (!film) return;
  if (film.open) show(film, 0);
  else pause(film);
}, true);
element.addEventListener("input", (event) => {
  const film = event.target.closest(".film");
  if (!film) return;
  event.stopPropagation();
  pause(film);
  show(film, Number(event.target.value));
});
element.addEventListener("click", (event) => {
  if (!event.target.matches(".film button")) return;
  const film = event.target.closest(".film");
  if (film.timer) pause(film);
  else play(film);
});
"""
