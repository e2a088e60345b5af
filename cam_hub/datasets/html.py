"""A report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import html
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from cam_hub._text import clean_line, counted
from cam_hub._version import __version__
from cam_hub.datasets.rows import public_path, public_text
from cam_hub.errors import CamHubError, DiskUnavailable, InvalidArgument, SaveFailed
from cam_hub.results import overlay
from cam_hub.results.maps import Map
from cam_hub.results.serialization import folder_path

if TYPE_CHECKING:
    from cam_hub.datasets.clusters import MapCluster
    from cam_hub.datasets.report import DatasetReport
    from cam_hub.datasets.report_row import DatasetRow

__all__ = ["check_page", "page_of", "write_page"]

_MARK: Final = "<!-- cam_hub dataset report -->"
_SIDE = 192  # pixels of the longer side of an overlay
_CLASSES = 200
_CLUSTERS = 12
_MEMBERS = 4  # overlays of a cluster
_IMAGES = 8  # overlays of each other section
_ERRORS = 50

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid #8886; padding: .25rem .75rem .25rem 0; text-align: left;
  vertical-align: middle; }
td.number, th.number { text-align: right; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; max-width: 12rem; }
figure img { max-width: 100%; height: auto; display: block; }
img.map { width: 7rem; height: 7rem; image-rendering: pixelated; }
td img.map { width: 3rem; height: 3rem; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
"""


@dataclass
class _Class:
    """What is counted of the images of one label."""

    images: int = 0
    correct: int = 0
    known: int = 0
    focus: list[float] = field(default_factory=list)


def check_page(path: str | os.PathLike[str]) -> Path:
    """The file for a page.

    Args:
        path: Ends in ``.html``. A file that is there already is replaced if it is such a page.

    Raises:
        InvalidArgument: If there is another file, or the name ends otherwise.
    """
    file = folder_path(path, "path")
    if file.suffix.lower() not in (".html", ".htm"):
        raise InvalidArgument("path", str(path), "a file that ends in .html")
    if os.path.lexists(file) and not _is_page(file):
        raise InvalidArgument("path", str(file), "a new file, or an earlier report of a dataset")
    return file


def write_page(report: DatasetReport, path: Path) -> None:
    """Writes the page, all of it or nothing.

    Args:
        report: The report.
        path: The file, from ``check_page``.

    Raises:
        DiskUnavailable, SaveFailed: If the system refuses.
    """
    text = page_of(report)
    hidden = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_text(text, "utf-8")
        hidden.replace(path)
    except OSError as error:
        known = DiskUnavailable.of(error) or SaveFailed(str(path), str(error.strerror or error))
        raise known from error
    finally:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)


def _is_page(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _MARK.encode() in file.read(200)
    except OSError:
        return False


def page_of(report: DatasetReport) -> str:
    """The page as text: counts, mean maps, classes, clusters, images and errors."""
    classes: dict[str, _Class] = {}
    counts = {name: Counter[str]() for name in ("method", "layers", "verdict", "error")}
    wrong: list[tuple[float, str]] = []
    for row in report.columns("key", "label", "correct", "predictions", "focus", *counts):
        for name, counter in counts.items():
            value = row[name]
            if value is not None:
                counter[", ".join(value) if isinstance(value, list) else value] += 1
        best = (row["predictions"] or [{}])[0].get("probability")
        if row["correct"] is False and best is not None:
            wrong.append((best, row["key"]))
        if row["label"] is not None:
            _count(classes.setdefault(row["label"], _Class()), row)
    groups = _clusters(report)
    worst = [key for _, key in nlargest(_IMAGES, wrong)]
    shared = report.shared_maps()
    galleries = {
        "Wrong with the highest probability": worst,
        f"Maps that other classes share: {counted(len(shared), 'image')}": list(shared)[:_IMAGES],
        "Most focused": [row.key for row in report.most_focused(_IMAGES)],
        "Least focused": [row.key for row in report.least_focused(_IMAGES)],
    }
    members = [key for group in groups for key in group.keys[:_MEMBERS]]
    report.fetch([*members, *(key for keys in galleries.values() for key in keys)])
    title = f"{report.job['model']['id']} on {counted(len(report), 'image')}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        _facts(report, counts),
        _means(report),
        _class_table(classes, report.mean_maps("label") if classes else {}),
        _cluster_section(report, groups),
        *(_gallery(report, heading, keys) for heading, keys in galleries.items()),
        _errors(report),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!DOCTYPE html>\n{_MARK}\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _count(found: _Class, row: dict[str, Any]) -> None:
    found.images += 1
    if row["correct"] is not None:
        found.known += 1
        found.correct += row["correct"]
    if row["focus"] is not None:
        found.focus.append(row["focus"])


def _clusters(report: DatasetReport) -> list[MapCluster]:
    """The first clusters of at most half of their class: by label, else by predicted class."""
    try:
        found = report.clusters("label") or report.clusters("predicted")
    except CamHubError:  # without scikit-learn, the page has no clusters
        return []
    return [each for each in found if each.share <= 0.5][:_CLUSTERS]


def _text(value: object) -> str:
    return html.escape(clean_line(value))


def _message(message: object, path: str | None, report: DatasetReport) -> str:
    """A message without paths of this machine: the page is one to share."""
    return _text(public_text(str(message), path, report.job["source"].get("path")))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; all but the first column are numbers."""
    first = "".join(
        f'<th scope="col"{"" if place == 0 else _NUMBER}>{name}</th>'
        for place, name in enumerate(head)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{_NUMBER}>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{first}</tr>{body}</table></div>'


_NUMBER = ' class="number"'


def _facts(report: DatasetReport, counts: dict[str, Counter[str]]) -> str:
    job = report.job
    rows = [
        ("source", _text(public_path(job["source"].get("path")) or job["source"].get("kind"))),
        ("accuracy", _percent(report.accuracy)),
        ("errors", f"{sum(counts['error'].values()):,}"),
    ]
    for name in ("method", "layers", "verdict"):
        common = counts[name].most_common(5)
        if common:
            words = "; ".join(f"{_text(value)} ({count:,})" for value, count in common)
            rows.append((name, words))
    rows.append(("made by", f"cam_hub {__version__}"))
    cells = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    return f'<div class="wide"><table>{cells}</table></div>'


def _means(report: DatasetReport) -> str:
    found = report.mean_maps("correct")
    if not found:
        return ""
    figures = "".join(
        f"<figure>{_map(heat, f'mean map of {name} predictions')}"
        f"<figcaption>{name} predictions</figcaption></figure>"
        for name, heat in found.items()
    )
    return f'<h2>Where the model looks</h2><div class="row">{figures}</div>'


def _class_table(classes: dict[str, _Class], means: dict[str, Map]) -> str:
    if not classes:
        return ""
    ordered = sorted(classes.items(), key=lambda each: (-each[1].images, each[0]))
    rows = [
        (
            _text(label),
            f"{found.images:,}",
            _percent(found.correct / found.known if found.known else None),
            f"{np.mean(found.focus):.3f}" if found.focus else "–",
            _map(means[label], f"mean map of {label}") if label in means else "–",
        )
        for label, found in ordered[:_CLASSES]
    ]
    more = len(ordered) - len(rows)
    note = f"<p>And {more:,} more.</p>" if more else ""
    return "<h2>Classes</h2>" + _table(_CLASS_HEAD, rows) + note


_CLASS_HEAD = ("label", "images", "accuracy", "focus", "mean map")


def _cluster_section(report: DatasetReport, groups: Sequence[MapCluster]) -> str:
    if not groups:
        return ""
    parts = []
    for group in groups:
        facts = (
            f"{counted(len(group), 'image')}, {_percent(group.share)} of the class; error rate "
            f"{_percent(group.error_rate)} (class {_percent(group.class_error_rate)}); silhouette "
            f"{group.silhouette:.2f}"
        )
        heat = group.mean_map / group.mean_map.max()
        mean = f"<figure>{_map(heat, 'mean map')}<figcaption>mean map</figcaption></figure>"
        shown = "".join(_figure(report[key], report) for key in group.keys[:_MEMBERS])
        parts.append(
            f'<h3>{_text(group.label)}</h3><p>{facts}</p><div class="row">{mean}{shown}</div>'
        )
    return (
        "<h2>Groups with similar maps</h2><p>Groups whose heat lies farthest from that of the "
        "rest of their class first. A small group of this kind may have a cue of its own.</p>"
        + "".join(parts)
    )


def _gallery(report: DatasetReport, heading: str, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    figures = "".join(_figure(report[key], report) for key in keys)
    return f'<h2>{_text(heading)}</h2><div class="row">{figures}</div>'


def _figure(row: DatasetRow, report: DatasetReport) -> str:
    best = row.predictions[0] if row.predictions else None
    words = _text(row.key)
    if best is not None:
        words += f"<br>{_text(best.label)} {_percent(best.probability)}"
    if row.correct is False:
        words += f" (label: {_text(row.label)})"
    try:
        picture = row.overlay()
        picture.thumbnail((_SIDE, _SIDE))
        shown = _image(picture, f"overlay of {row.key}", "JPEG")
    except CamHubError as error:
        shown = f"<p>{_message(error, row.path, report)}</p>"
    return f"<figure>{shown}<figcaption>{words}</figcaption></figure>"


def _map(heat: Map, words: str) -> str:
    return _image(overlay.colorize(np.clip(heat, 0, 1), "jet"), words, "PNG", "map")


def _image(picture: Image.Image, words: str, kind: str, style: str = "") -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, kind)
    coded = base64.b64encode(buffer.getvalue()).decode()
    name = f' class="{style}"' if style else ""
    return f'<img{name} alt="{_text(words)}" src="data:image/{kind.lower()};base64,{coded}">'


def _errors(report: DatasetReport) -> str:
    columns = report.columns("key", "path", "error", "message")
    found = [row for row in columns if row["error"] is not None]
    if not found:
        return ""
    items = "".join(
        f"<tr><th scope='row'>{_text(row['key'])}</th><td>{_text(row['error'])}</td>"
        f"<td>{_message(row['message'], row['path'], report)}</td></tr>"
        for row in found[:_ERRORS]
    )
    more = f"<p>And {len(found) - _ERRORS:,} more.</p>" if len(found) > _ERRORS else ""
    return f'<h2>Errors</h2><div class="wide"><table>{items}</table></div>{more}'
