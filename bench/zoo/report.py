"""Tells what the sweep has found, as Markdown; the same ledger gives the same text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from bench.zoo.depth import TAIL
from bench.zoo.plan import Candidate
from bench.zoo.quadrants import DRAWS
from bench.zoo.row import CHECKS, Row

__all__ = ["render_report"]

_INTRODUCTION = f"""\
# The zoo

Every architecture of timm and torchvision with random weights, at its default input size (but for
those listed below), explained at the layer that cam_hub recommends. Written by
`python -m bench.zoo`; not edited by hand.

Each model must hold all of these:

- **finite, not flat**: SmoothGradCAM++ and LayerCAM each give a map whose values are finite and
  not all the same.
- **on the image**: where the texture of one quadrant of the input is redrawn ({DRAWS} draws
  averaged, or fewer), the same quadrant of the layer's activations changes most, for all four. The
  margin is how much more it changes than the runner-up, as a part of its own change; the table has
  the worst.
- **deep**: at most a tenth of the leaf modules that run before pooling run after the layer, or
  after the block in which it lies (`bench/zoo/depth.py` has the exact words). Not asked of
  detectors, whose heads follow the trunk at every level and place: there is no pooling.
- **nothing left**: hooks, training flags, `requires_grad`, gradients and weights are as before,
  also on a model that is being trained.

To run it, in as many sittings as it takes (what is done is not done again):

```sh
python -m bench.zoo --jobs 2 --report docs/zoo.md
```

With `--recorded LEDGER`, a model whose layer, layout and grid are those of a row that passed keeps
that row's checks of place and depth, which depend on nothing else; everything else is done anew.
"""


def render_report(models: Sequence[Candidate], rows: Iterable[Row], max_parameters: int) -> str:
    """Writes the report.

    Args:
        models: All models that there are, counted.
        rows: What the ledger has; rows of models that there are no more are left out.
        max_parameters: Models with more were not to be run.

    Returns:
        Markdown.
    """
    found = {row.id: row for row in rows}
    models = sorted(models, key=lambda each: (each.source, each.name))
    tried = [found[each.id] for each in models if each.id in found]
    parts = [
        _INTRODUCTION,
        _versions(tried),
        _totals(models, tried, max_parameters),
        _failures(tried),
        _refusals(tried),
        _reduced(tried),
        _not_run([each for each in models if each.id not in found], max_parameters),
        _families(models, found),
    ]
    return "\n".join(part for part in parts if part)


def _versions(rows: Sequence[Row]) -> str:
    seen: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name, version in row.versions.items():
            seen[name].add(version)
    texts = [f"{name} {', '.join(sorted(versions))}" for name, versions in sorted(seen.items())]
    return f"Run with {'; '.join(texts)}.\n" if texts else ""


def _totals(models: Sequence[Candidate], rows: Sequence[Row], max_parameters: int) -> str:
    sources = sorted({each.source for each in models})
    lines = ["## Totals", ""]
    lines += _table_head(["", *sources, "all"])
    groups = [[row for row in rows if row.source == source] for source in sources] + [list(rows)]
    small = [
        [each for each in models if source in (each.source, None)] for source in [*sources, None]
    ]
    lines.append(_line("models that there are", [len(group) for group in small]))
    lines.append(
        _line(
            f"with up to {max_parameters / 1e6:g} M parameters",
            [sum(_within(each, max_parameters) for each in group) for group in small],
        )
    )
    lines.append(_line("tried", [len(group) for group in groups]))
    explained = [[row for row in group if not _rightly_refused(row)] for group in groups]
    lines.append(
        _line(
            "refused, as it should be (nothing to explain)",
            [len(a) - len(b) for a, b in zip(groups, explained, strict=True)],
        )
    )
    lines.append(_line("to be explained", [len(group) for group in explained]))
    for check, words in CHECKS.items():
        held = [sum(_holds(row, check) for row in group) for group in explained]
        lines.append(_line(words, held))
    strict = [sum(_in_last_tenth(row) for row in group) for group in explained]
    lines.append(_line("… the layer itself, and not only its block, in the last tenth", strict))
    passed = [sum(row.status == "passed" for row in group) for group in explained]
    lines.append(_line("**all checks hold**", passed))
    shares = [
        f"{100 * count / len(group):.1f} %" if group else "–"
        for count, group in zip(passed, explained, strict=True)
    ]
    lines.append(_line("**share**", shares))
    return "\n".join(lines) + "\n"


def _failures(rows: Sequence[Row]) -> str:
    bad = [row for row in rows if not row.good]
    lines = ["## Failures", ""]
    if not bad:
        return "\n".join([*lines, "None.", ""])
    counts = Counter(row.status for row in bad)
    lines += [", ".join(f"{counts[status]} {status}" for status in sorted(counts)) + ".", ""]
    lines += [
        "*Best late margin*: the greatest one in the last tenth of the usable layers. Where it is",
        "not above zero, with these weights no late layer lies on the image by this check.",
        "",
    ]
    lines += _table_head(
        ["model", "module file", "status", "layer", "margin", "best late margin", "reason"]
    )
    lines += [
        _line(
            f"`{row.id}`",
            [
                f"`{row.family}`",
                row.status,
                f"`{row.layer}`" if row.layer else "–",
                _number(row.margin),
                _number(row.best_late_margin),
                "; ".join(row.reasons) or "–",
            ],
        )
        for row in bad
    ]
    return "\n".join(lines) + "\n"


def _refusals(rows: Sequence[Row]) -> str:
    refused = [row for row in rows if _rightly_refused(row)]
    if not refused:
        return ""
    lines = ["## Refused, as it should be", "", *_table_head(["model", "reason"])]
    lines += [_line(f"`{row.id}`", ["; ".join(row.reasons)]) for row in refused]
    return "\n".join(lines) + "\n"


def _reduced(rows: Sequence[Row]) -> str:
    smaller = [row for row in rows if row.default_size is not None]
    if not smaller:
        return ""
    names = ", ".join(
        f"`{row.id}` ({_by(row.input_size)} for {_by(row.default_size)})" for row in smaller
    )
    words = f"Too costly at their own size for the machine at hand ({len(smaller)}): {names}."
    return f"## With a smaller input than their own\n\n{words}\n"


def _not_run(models: Sequence[Candidate], max_parameters: int) -> str:
    large = [each for each in models if not _within(each, max_parameters)]
    waiting = [each for each in models if _within(each, max_parameters)]
    if not models:
        return ""
    lines = ["## Not run", ""]
    if large:
        names = ", ".join(f"`{each.id}` ({_millions(each.parameters)})" for each in large)
        lines += [f"Larger than {max_parameters / 1e6:g} M parameters ({len(large)}): {names}.", ""]
    if waiting:
        names = ", ".join(f"`{each.id}`" for each in waiting)
        lines += [f"Not yet ({len(waiting)}): {names}.", ""]
    return "\n".join(lines)


def _families(models: Sequence[Candidate], found: dict[str, Row]) -> str:
    families: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for each in models:
        families[each.source, each.family].append(each)
    lines = [
        "## Families",
        "",
        "A row per module file. Layout, grid, tokens without a place and layer are those of its",
        "smallest member; *passes* are the images that go through the network while the layers are",
        "found (and the backward passes), of all members that were run.",
        "",
    ]
    lines += _table_head(
        [
            *("module file", "good / run / all", "smallest", "layer", "layout", "grid"),
            *("tokens", "passes", "worst margin"),
        ]
    )
    for (source, family), members in sorted(families.items()):
        rows = [found[each.id] for each in members if each.id in found]
        lines.append(_family(f"{source} `{family}`", members, rows))
    return "\n".join(lines) + "\n"


def _family(name: str, members: Sequence[Candidate], rows: Sequence[Row]) -> str:
    ratio = f"{sum(row.good for row in rows)} / {len(rows)} / {len(members)}"
    smallest = min(
        (row for row in rows if row.layer),
        key=lambda row: (row.parameters or 0, row.id),
        default=None,
    )
    margins = [row.margin for row in rows if row.margin is not None]
    if smallest is None:
        return _line(name, [ratio, *["–"] * 7])
    tokens = str(smallest.prefix_tokens)
    tokens += f" + {smallest.suffix_tokens} after" if smallest.suffix_tokens else ""
    return _line(
        name,
        [
            ratio,
            f"`{smallest.id}`",
            f"`{smallest.layer}`",
            smallest.layout or "–",
            "×".join(map(str, smallest.grid or [])) or "–",
            tokens,
            f"{_range(row.forward_passes for row in rows)} "
            f"({_range(row.backward_passes for row in rows)})",
            _number(min(margins, default=None)),
        ],
    )


def _holds(row: Row, check: str) -> bool:
    return row.checks.get(check, False) or check in row.not_asked


def _within(model: Candidate, max_parameters: int) -> bool:
    return model.parameters is None or model.parameters <= max_parameters


def _rightly_refused(row: Row) -> bool:
    return row.status == "refused" and row.refusal_expected


def _in_last_tenth(row: Row) -> bool:
    return (
        row.leaves is not None
        and row.leaves_after is not None
        and row.leaves_after <= TAIL * row.leaves
    )


def _range(numbers: Iterable[int | None]) -> str:
    known = [number for number in numbers if number is not None]
    if not known:
        return "–"
    return str(known[0]) if min(known) == max(known) else f"{min(known)}–{max(known)}"


def _by(size: Sequence[int] | None) -> str:
    return "×".join(map(str, (size or [])[1:]))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _millions(parameters: int | None) -> str:
    return f"{(parameters or 0) / 1e6:.0f} M"


def _table_head(cells: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(cells) + " |", "|" + "---|" * len(cells)]


def _line(first: str, rest: Sequence[object]) -> str:
    cells = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in (first, *rest)]
    return "| " + " | ".join(cells) + " |"
