"""``cam-hub``, ``python -m cam_hub``: models, layers, explanations, comparisons in a terminal."""

from __future__ import annotations

import argparse
import glob
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from cam_hub._text import clean_line, clean_text, counted
from cam_hub._validation import check_fraction
from cam_hub._version import __version__
from cam_hub.errors import CamHubError, DiskUnavailable, InvalidArgument
from cam_hub.options import OPTIONS, Interface, Option, options_for, read_options

if TYPE_CHECKING:
    from cam_hub.datasets.ray_runner import RayRunner
    from cam_hub.layers.listing import LayerInfo
    from cam_hub.models.loaded_model import LoadedModel
    from cam_hub.models.loading import Progress
    from cam_hub.sources.registry import ModelHit

__all__ = ["main"]

_EXPLAIN: Final[Interface] = "explain"
_COMPARE: Final[Interface] = "compare"
_MANY: Final[Interface] = "many"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The arguments; None for those of the process.

    Returns:
        Exit code: 0 if all went well, 1 after an error of ``cam_hub.errors`` or of the environment
        (disk, output, packages), whose message is printed; 2 (from argparse) if the command line
        makes no sense; 130 after Ctrl+C.
    """
    _accept_any_text()
    os.environ["MPLBACKEND"] = "agg"  # no window is opened; matplotlib fails at an unknown name
    options = _parser().parse_args(
        _plain_evidence(sys.argv[1:] if arguments is None else arguments)
    )
    try:
        run: Callable[[argparse.Namespace], int | None] = options.run
        code = run(options) or 0
        sys.stdout.flush()
    except CamHubError as error:
        return _failed(f"error ({error.code}): {error}")
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except BrokenPipeError:  # the reader of the output has seen enough
        return _abandon_output()
    except OSError as error:
        known = DiskUnavailable.of(error)
        _abandon_output()
        place = f" ({error.filename})" if error.filename else ""
        return _failed(
            f"error ({known.code}): {known}" if known else f"error: {error.strerror}{place}"
        )
    except ImportError as error:
        if error.name is None:
            raise
        return _failed(f"error: the package {error.name.partition('.')[0]!r} is missing ({error})")
    return code


def _accept_any_text() -> None:
    """Has what the encoding of the terminal lacks written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _failed(message: str, code: int = 1) -> int:
    with suppress(OSError):
        _write(f"{message}\n", sys.stderr)
    return code


def _abandon_output() -> int:
    """Keeps Python from writing the rest of the output at its end, which would fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _plain_evidence(words: Sequence[str]) -> list[str]:
    """The arguments with the cover test after a bare ``--evidence``, whatever follows it.

    Argparse would take a photo that follows for the names of tests.
    """
    known = {"all", *OPTIONS["evidence"].choices}
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        names = {name.strip() for name in following.split(",")}
        is_photo = not following.replace(",", "").replace("_", "").isalpha()
        bare = word == "--evidence" and not known & names
        found.append(f"{word}=cover" if bare and (is_photo or Path(following).exists()) else word)
    return found


def _parser() -> argparse.ArgumentParser:
    installed = Path(sys.argv[0]).stem == "cam-hub"  # the console script
    parser = argparse.ArgumentParser(
        prog="cam-hub" if installed else "python -m cam_hub",
        description="Which pixels support which class, for a model by its ID.",
    )
    parser.add_argument("--version", action="version", version=f"cam_hub {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    layers = commands.add_parser("layers", help="list a model's layers and which one to explain")
    layers.set_defaults(run=_layers)
    layers.add_argument("id", nargs="?", metavar="ID", help="the model; the same as --model")
    layers.add_argument("--all", action="store_true", help="also those that give no map, and why")
    explain = commands.add_parser("explain", help="explain a picture and save the result")
    explain.set_defaults(run=_explain)
    explain.add_argument(
        "photo",
        help="path of the picture, for a model of clips also of an animation; or several: a "
        "folder with those in it, or a glob in quotes",
    )
    explain.add_argument("--out", default="explanation", help="folder to save to (%(default)s)")
    explain.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="also save to this dataset repo on the Hub; private if it is made now",
    )
    dataset = _add_dataset(commands)
    for command in (explain, dataset):
        command.add_argument(
            "--method", default="auto", help="a name of `methods`, or auto (%(default)s)"
        )
        command.add_argument(
            "--layer",
            "--layers",
            action="append",
            dest="layers",
            metavar="LAYER",
            help="target layer; may be repeated",
        )
        command.add_argument(
            "--class",
            "--classes",
            action="append",
            dest="classes",
            help="index, label or top(3); may be repeated",
        )
        command.add_argument(
            "--expected",
            action="store_true",
            help="also the class that each picture is labelled with, as by its class folder",
        )
    explain.add_argument(
        "--alpha", type=float, default=0.5, help="opacity of the heatmap, 0 to 1 (%(default)s)"
    )
    explain.add_argument("--colormap", default="jet", help="colour map (%(default)s)")
    explain.add_argument(
        "--scale",
        default="own",
        metavar="SCALE",
        help="scale of the colours: own, each map's own; common, one for all maps, of a folder "
        "for all pictures; or LOW,HIGH in the units of the map (%(default)s)",
    )
    explain.add_argument(
        "--colorbar", action="store_true", help="draws the colours and their values below"
    )
    compare = commands.add_parser("compare", help="explain a picture by several models, and so on")
    compare.set_defaults(run=_compare)
    compare.add_argument("photo", help="path of the picture")
    compare.add_argument("--out", default="comparison", help="folder to save to (%(default)s)")
    compare.add_argument("--models", nargs="+", metavar="ID", help="the rows (the embedded model)")
    compare.add_argument("--methods", nargs="+", default=["auto"], metavar="METHOD")
    compare.add_argument("--layers", nargs="+", metavar="LAYER", help="names, or a word: stages")
    compare.add_argument("--classes", nargs="+", metavar="CLASS", help="indices, labels or top(3)")
    compare.add_argument("--scale", default="shares", help="shares, values or own (%(default)s)")
    methods = commands.add_parser("methods", help="list the methods, their costs and papers")
    methods.set_defaults(run=_methods)
    search = commands.add_parser("search", help="find models by words of their IDs")
    search.set_defaults(run=_search)
    search.add_argument("words", nargs="*", metavar="WORD", help="all must stand in the ID")
    search.add_argument("--limit", type=int, default=20, help="1 to 100 (%(default)s)")
    for command in (layers, explain):
        command.add_argument(
            "--model", metavar="ID", help="or a folder: ./PATH (default: the embedded model)"
        )
    for command, interface in ((explain, _EXPLAIN), (compare, _COMPARE), (dataset, _MANY)):
        command.add_argument(
            "--contrast",
            metavar="CLASS",
            help="class to hold them against; several as 'tabby; 0.5*lynx', or 'nearest(3)'",
        )
        if interface != _MANY:
            command.add_argument(
                "--region",
                type=_box,
                metavar="L,T,R,B",
                help="box in the photo's pixels to ask about",
            )
        command.add_argument(
            "--reference", metavar="PHOTO", help="picture to compare features with"
        )
        for option in options_for(interface).values():
            _add_option(command, option)
        command.add_argument(
            "--samples",
            "--num-samples",
            type=int,
            default=4,
            metavar="COUNT",
            help="noisy copies (%(default)s)",
        )
        command.add_argument("--std", type=float, default=0.3, help="their noise (%(default)s)")
        command.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    for command in (layers, explain, compare, dataset):
        command.add_argument("--random", action="store_true", help="random weights, no network")
        command.add_argument("--device", default="auto", help="(%(default)s)")
        command.add_argument("--dtype", default="auto", help="of the weights (%(default)s)")
    return parser


def _add_dataset(commands: Any) -> argparse.ArgumentParser:
    """Adds the command ``dataset`` with the arguments that only it has."""
    dataset: argparse.ArgumentParser = commands.add_parser(
        "dataset", help="explain all images of a dataset, one Parquet row each; resumable"
    )
    dataset.set_defaults(run=_dataset)
    dataset.add_argument("model", metavar="MODEL", help="ID of the model, or a folder: ./PATH")
    dataset.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of images or of class folders; glob in quotes; .csv, .parquet or .tar files; "
        "an address of these, such as s3://…; a dataset on the Hub: OWNER/NAME:SPLIT; or a folder "
        "that the library datasets saved",
    )
    dataset.add_argument("out", metavar="OUT", help="folder of the rows; the same one resumes")
    dataset.add_argument(
        "--map-type",
        default="float32",
        help="number format of maps: float32, or uint8 for a quarter of the size (%(default)s)",
    )
    dataset.add_argument(
        "--part-size", type=int, default=1000, help="rows in one file (%(default)s)"
    )
    dataset.add_argument(
        "--retry-errors", action="store_true", help="explain images with an error again"
    )
    dataset.add_argument("--threads", type=int, help="threads that read images (one per processor)")
    dataset.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that read images in place of threads (%(default)s)",
    )
    dataset.add_argument(
        "--preprocessing",
        default="exact",
        help="exact, or faster for large photos: draft, device (%(default)s)",
    )
    dataset.add_argument("--html", metavar="FILE", help="also write the report as one HTML page")
    dataset.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="also write the rows into this dataset repo on the Hub; private if it is made now",
    )
    dataset.add_argument(
        "--runner", default="local", help="local, or ray: in processes of its own (%(default)s)"
    )
    dataset.add_argument(
        "--ray-workers",
        type=int,
        metavar="COUNT",
        help="processes of Ray that explain images (as many as there is room for)",
    )
    dataset.add_argument("--ray-cpus", type=float, metavar="COUNT", help="of each of these (1)")
    dataset.add_argument(
        "--ray-gpus", type=float, metavar="COUNT", help="of each (1 if the model is on a GPU, or 0)"
    )
    dataset.add_argument(
        "--ray-address", metavar="ADDRESS", help="of a Ray cluster, or auto (this machine alone)"
    )
    return dataset


def _add_option(command: argparse.ArgumentParser, option: Option) -> None:
    """Adds the flag of an option; its value is read by ``read_options``."""
    if option.kind == "switch":
        command.add_argument(
            option.flag,
            dest=option.name,
            action="store_const",
            const=str(not option.default),
            help=f"sets to {'no' if option.default else 'yes'}: {option.help}",
        )
        return
    choices = f" ({', '.join(option.choices)})" if option.choices else ""
    checks: dict[str, Any] = {"nargs": "?", "const": "cover"} if option.kind == "checks" else {}
    command.add_argument(
        option.flag,
        **checks,
        metavar={"image": "PHOTO", "whole": "NUMBER"}.get(option.kind, option.kind.upper()),
        help=f"{option.help}{choices}; {option.default_text} by default",
    )


def _box(text: str) -> tuple[float, ...]:
    """Numbers with commas between them; what they mean is checked where the photo is known."""
    return tuple(float(number) for number in text.split(","))


def _model(options: argparse.Namespace) -> LoadedModel:
    # Imported after the command line was read: torch takes seconds.
    from cam_hub.sources.registry import load_model  # noqa: PLC0415
    from cam_hub.sources.timm import DEFAULT_MODEL  # noqa: PLC0415

    named = {options.model, getattr(options, "id", None)} - {None}
    if len(named) > 1:
        raise InvalidArgument("--model", options.model, "one model, and two were named")
    id = named.pop() if named else DEFAULT_MODEL
    return load_model(id, pretrained=not options.random, device=options.device, dtype=options.dtype)


def _methods(_: argparse.Namespace) -> None:
    from cam_hub.methods import METHODS  # noqa: PLC0415

    rows = [("name", "method", "level", "passes", "depends on the class", "paper")]
    for name, method in METHODS.items():
        specific = "yes" if method.class_specific else "no"
        rows.append(
            (name, method.title, method.level, str(method.passes), specific, method.citation)
        )
    _print_table(rows)


def _layers(options: argparse.Namespace) -> None:
    from cam_hub.layers.listing import list_layers, suggest_layers  # noqa: PLC0415

    model = _model(options)
    rows = [("", "layer", "type", "layout", "grid", "channels", "prefix", "stage", "why")]
    rows += [
        (
            "*" if layer.recommended else "",
            layer.name,
            layer.module_type,
            layer.layout or "-",
            _grid(layer),
            str(layer.channels or "-"),
            str(layer.prefix_tokens) if layer.layout else "-",
            "-" if layer.stage is None else str(layer.stage),
            layer.reason,
        )
        for layer in list_layers(model)
        if layer.usable or options.all
    ]
    _print_table(rows)
    _write(f"recommended (*): {suggest_layers(model)[0]}\n")


def _write(text: str, stream: TextIO | None = None) -> None:
    """Writes text of any origin."""
    (stream or sys.stdout).write(clean_text(text))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows with their columns in line."""
    rows = [tuple(map(clean_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _write("  ".join(cells).rstrip() + "\n")


def _search(options: argparse.Namespace) -> None:
    from cam_hub.sources.registry import find_models  # noqa: PLC0415

    found = find_models(" ".join(options.words), limit=options.limit)
    if found.trouble:
        _write(f"without the Hub: {found.trouble}\n", sys.stderr)
    rows = [("model", "downloads", "parameters", "size", "licence", "access")]
    _print_table([*rows, *map(_hit, found.hits)])


def _hit(hit: ModelHit) -> tuple[str, ...]:
    return (
        hit.id,
        "-" if hit.downloads is None else f"{hit.downloads:,}",
        "-" if hit.parameters is None else f"{hit.parameters / 1e6:,.1f} M",
        "-" if hit.bytes is None else f"{hit.bytes / 1e6:,.0f} MB",
        hit.licence or "-",
        " ".join(word for word in ("gated", "private") if getattr(hit, word)) or "-",
    )


def _grid(layer: LayerInfo) -> str:
    """Rows and columns; of a clip steps, rows and columns."""
    if layer.grid is None:
        return "-"
    steps = (layer.frames,) if layer.frames > 1 else ()
    return "×".join(map(str, (*steps, *layer.grid)))


def _explain(options: argparse.Namespace) -> int:
    from cam_hub.attribution.explain import explain  # noqa: PLC0415
    from cam_hub.images.decoding import local_path  # noqa: PLC0415
    from cam_hub.results.maps import read_scale  # noqa: PLC0415
    from cam_hub.results.overlay import colormap_table  # noqa: PLC0415
    from cam_hub.results.serialization import MANIFEST, check_place, folder_path  # noqa: PLC0415
    from cam_hub.targets.classes import prediction_text  # noqa: PLC0415

    check_fraction("alpha", options.alpha, zero=True)
    colormap_table(options.colormap)
    look = {name: getattr(options, name) for name in ("alpha", "colormap", "colorbar")}
    look["scale"] = read_scale(options.scale)
    path = local_path(options.photo)
    if path.is_dir() or (glob.has_magic(options.photo) and not path.exists()):
        return _explain_folder(options, look)
    if options.expected:
        raise InvalidArgument("--expected", options.photo, "a folder of class folders")
    check_place(folder_path(options.out, "--out"), MANIFEST)
    result = explain(
        _model(options),
        options.photo,
        method=options.method,
        region=options.region,
        **_choices(options, _EXPLAIN),
    )
    for found in result.predictions:
        _write(f"{prediction_text(found):>7}  {found.class_index:5d}  {found.label}\n")
    _write(f"explained: {result.target}\n")
    if (choice := result.manifest.get("choice")) is not None:
        layers = ", ".join(result.layers)
        _write(f"map: {result.method} at {layers}: {choice['reason']}\n")
    if options.evidence is not None:
        _write(f"evidence: {result.evidence}\n")
    _write(f"saved to {result.save(options.out, **look)}\n")
    if options.push:
        from cam_hub.results.upload import save_to_hub  # noqa: PLC0415

        _write(f"pushed to {save_to_hub(result, options.push)}\n")
    return 0


def _explain_folder(options: argparse.Namespace, look: dict[str, Any]) -> int:
    """Saves the explanation of each picture of a folder under the picture's path in it.

    For a common scale, overlays are drawn again when all values are known.

    Returns:
        1 if a picture had an error; it is printed, and the others go on.
    """
    from cam_hub.attribution.explain_many import explain_many  # noqa: PLC0415
    from cam_hub.results.explanation import Explanation  # noqa: PLC0415
    from cam_hub.results.maps import shared_scale  # noqa: PLC0415
    from cam_hub.results.serialization import folder_path  # noqa: PLC0415
    from cam_hub.targets.classes import prediction_text  # noqa: PLC0415

    one = set(options_for(_EXPLAIN)) - set(options_for(_MANY))
    for name in ("region", "push", *sorted(one)):
        if (given := getattr(options, name)) is not None and name != "reuse":
            raise InvalidArgument(f"--{name}", given, "a single picture with it, not a folder")
    out = folder_path(options.out, "--out")
    if os.path.lexists(out) and not out.is_dir():
        raise InvalidArgument("--out", options.out, "a folder, and this is a file")
    code = 0
    common = look["scale"] == "common"
    scales: dict[str, tuple[float, float]] = {}
    saved: list[Path] = []
    choices = _choices_for_many(options)
    for outcome in explain_many(_model(options), options.photo, method=options.method, **choices):
        name = clean_line(outcome.key)
        try:
            result = outcome.explanation
            saved.append(result.save(out / str(outcome.key), **look))
            for layer in result.layers if common else ():
                with suppress(InvalidArgument):  # a blank map has no values to show
                    low, high = shared_scale([result], layer)
                    known = scales.get(layer, (low, high))
                    scales[layer] = min(low, known[0]), max(high, known[1])
        except CamHubError as error:
            _write(f"{name}: error ({error.code}): {error}\n", sys.stderr)
            code = 1
        else:
            best = [f"{prediction_text(found)} {found.label}" for found in result.predictions[:1]]
            tested = options.evidence is not None and result.evidence
            _write(": ".join([name, *best, *([tested.verdict] if tested else [])]) + "\n")
    for folder in saved if common else ():
        Explanation.load(folder).save(folder, **{**look, "scale": scales})
    return code


def _compare(options: argparse.Namespace) -> int:
    """Saves a comparison.

    Returns:
        1 if a cell has no map; its reason is printed, and the others are saved.
    """
    from cam_hub.attribution.compare import ask, make_grid  # noqa: PLC0415
    from cam_hub.results.comparison import check_folder  # noqa: PLC0415
    from cam_hub.results.comparison_grid import check_scale, cost_in_words  # noqa: PLC0415
    from cam_hub.results.serialization import folder_path  # noqa: PLC0415
    from cam_hub.sources.registry import load_model  # noqa: PLC0415
    from cam_hub.sources.timm import DEFAULT_MODEL  # noqa: PLC0415

    scale = check_scale(options.scale)
    check_folder(folder_path(options.out, "--out"))
    question = ask(
        options.photo,
        options.methods,
        region=options.region,
        **_choices(options, _COMPARE),
    )

    def lease(model_id: str, progress: Progress) -> AbstractContextManager[LoadedModel]:
        return nullcontext(
            load_model(
                model_id,
                pretrained=not options.random,
                device=options.device,
                dtype=options.dtype,
                progress=progress,
            )
        )

    models = list(dict.fromkeys(options.models or [DEFAULT_MODEL]))
    grid = make_grid(models, question, lease)
    if grid.first_error is not None:
        raise grid.first_error
    rows = [("model", str(grid.kind), "layer", "class", "cost")]
    for row in grid.rows:
        for title, cell in zip(grid.titles, row.cells, strict=True):
            if cell.error is not None:
                where = f"{row.model}, {title}"
                _write(f"{where}: error ({cell.error.code}): {cell.reason}\n", sys.stderr)
            cost = cost_in_words(cell.cost) if cell.cost else "-"
            rows.append((row.model, title, cell.layer or "-", cell.label or "-", cost))
    _print_table(rows)
    _write(f"saved to {grid.save(options.out, scale)}\n")
    return int(any(cell.error for cell in grid.cells))


def _dataset(options: argparse.Namespace) -> int:
    """Explains a dataset.

    Returns:
        1 if an image has an error; its row states it.
    """
    from cam_hub.datasets.explain_dataset import explain_dataset  # noqa: PLC0415
    from cam_hub.datasets.html import check_page  # noqa: PLC0415
    from cam_hub.results.upload import HubWriter  # noqa: PLC0415

    if options.html is not None:
        check_page(options.html)
    if options.push is not None:
        HubWriter(options.push, "dataset")  # refuses a wrong name and a missing token now
    line = _ProgressLine()
    try:
        report = explain_dataset(
            _model(options),
            options.source,
            options.out,
            runner=_runner(options),
            method=options.method,
            map_type=options.map_type,
            part_size=options.part_size,
            retry_errors=options.retry_errors,
            threads=options.threads,
            workers=options.workers,
            preprocessing=options.preprocessing,
            progress=line,
            **_choices_for_many(options),
        )
    finally:
        line.end()
    errors = report.errors()
    for key, (code, message) in list(errors.items())[:_SHOWN_ERRORS]:
        _write(f"{clean_line(key)}: error ({code}): {clean_line(message)}\n", sys.stderr)
    if len(errors) > _SHOWN_ERRORS:
        _write(f"and {counted(len(errors) - _SHOWN_ERRORS, 'more error')}\n", sys.stderr)
    _write(f"{counted(len(report), 'row')}, {len(errors):,} of them with an error\n")
    if (accuracy := report.accuracy) is not None:
        _write(f"accuracy: {accuracy:.2%}\n")
    explained = (row for row in report.columns("label", "label_index", "error") if not row["error"])
    unknown = [row["label"] for row in explained if row["label"] and row["label_index"] is None]
    if unknown:
        found = f"{counted(len(unknown), 'row')} with labels that the model does not have"
        _write(f"{found}, such as {clean_line(unknown[0], 100)!r}\n")
    _write(f"saved to {options.out}\n")
    if options.html is not None:
        _write(f"report: {report.to_html(options.html)}\n")
    if options.push is not None:
        line = _ProgressLine()
        try:
            address = report.push_to_hub(options.push, progress=line)
        finally:
            line.end()
        _write(f"pushed to {address}\n")
    return int(bool(errors))


def _runner(options: argparse.Namespace) -> RayRunner | str:
    """The runner of a dataset; its settings are those of Ray."""
    from cam_hub.datasets.ray_runner import RayRunner  # noqa: PLC0415

    given = {}
    for name in ("workers", "num_cpus", "num_gpus", "address"):
        flag = f"ray_{name.removeprefix('num_')}"
        if (value := getattr(options, flag)) is not None:
            given[name] = value
            if options.runner != "ray":
                flag = f"--{flag.replace('_', '-')}"
                raise InvalidArgument("--runner", options.runner, f"ray, which {flag} is for")
    return RayRunner(**given) if given else str(options.runner)


_SHOWN_ERRORS = 10


_PROGRESS_SECONDS = 30.0


class _ProgressLine:
    """Progress on the standard error stream: on a terminal one line that changes.

    Elsewhere, as in a log, a line for each percent, and every 30 seconds: the part that is done is
    0 where the number of images is unknown.
    """

    def __init__(self) -> None:
        self._width = 0
        self._terminal = sys.stderr.isatty()
        self._next, self._due = 0.0, 0.0

    def __call__(self, part: float, words: str) -> None:
        if self._terminal:
            line = clean_line(words)
            sys.stderr.write(f"\r{line:<{self._width}}")
            sys.stderr.flush()
            self._width = len(line)
        elif part >= self._next or time.monotonic() >= self._due:
            _write(f"{words}\n", sys.stderr)
            self._next = part + 0.01
            self._due = time.monotonic() + _PROGRESS_SECONDS

    def end(self) -> None:
        if self._width:
            _write("\n", sys.stderr)


def _choices(options: argparse.Namespace, interface: Interface) -> dict[str, Any]:
    """The options of the explanation in the arguments."""
    layers, classes = options.layers, options.classes
    return {
        # A single text may be a word that stands for several; of several, each is a name.
        "target_layers": layers[0] if layers and len(layers) == 1 else layers,
        "classes": classes[0] if classes and len(classes) == 1 else classes,
        "contrast": options.contrast,
        **read_options(vars(options), interface),
        "reference": options.reference,
        "num_samples": options.samples,
        "std": options.std,
        "seed": options.seed,
    }


def _choices_for_many(options: argparse.Namespace) -> dict[str, Any]:
    """The same for many pictures, with the label of each among the classes if it is asked for."""
    from cam_hub.targets.classes import expected, parse_top  # noqa: PLC0415

    choices = _choices(options, _MANY)
    if options.expected:
        given = choices["classes"]
        given = [] if given is None else given if isinstance(given, list) else [given]
        choices["classes"] = [*(parse_top(text) or text for text in given), expected]
    return choices
