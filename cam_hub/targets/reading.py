"""The interpretation of a network's output, by a few passes: main output and last function.

Some networks return several tensors (heads), and some end in a softmax or sigmoid of their own. A
table of architectures would not help with a user's network, so it is run on a few inputs: the
values distinguish probabilities from scores, and the autograd graph shows the last operations and
their inputs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.options import OutputChoice
from cam_hub.targets.heads import Head, Path, named_outputs

__all__ = [
    "MAIN_KEYS",
    "SIGMOIDS",
    "WITHOUT_BATCH",
    "Inner",
    "InputsOfProbabilities",
    "Reading",
    "probes",
    "read_outputs",
    "scores_of",
    "text_of_scores",
    "with_batch",
]

Inner = Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid"]
"""What a network applies to its scores before it returns them."""

SIGMOIDS = ("sigmoid", "log_sigmoid")
"""Those that are applied to each score alone."""

_INNERS: tuple[Inner, ...] = ("softmax", "sigmoid", "log_softmax", "log_sigmoid")

WITHOUT_BATCH: dict[str, tuple[int, ...]] = {"classes": (0, 1), "values": (0, 1), "pixels": (2, 3)}
"""How many dimensions an answer for one image has, by what it holds, if the network removes that of
the batch."""

MAIN_KEYS = ("logits", "out")
"""Names under which networks that return a mapping keep their main tensor, by convention."""

_PLAIN = (
    *("View", "Reshape", "UnsafeView", "Squeeze", "Unsqueeze", "Transpose", "Permute", "TBackward"),
    *("Select", "Slice", "Clone", "ToCopy", "Alias", "Expand", "Identity"),
)
"""Names of graph nodes that hand values on as they are."""

_BOUNDED = {"Sigmoid", "Hardsigmoid", "Softmax", "Tanh", "Clamp", "Reciprocal", "Exp", "Erf"}
"""Names of graph nodes of functions whose values are bounded, or that can make up such a one."""

_NEAR = 6
"""Graph nodes before an output that are searched for a bounded function."""

_DEEPER = 1.2
"""The main head has at least this many times as many operations as the others."""

_NEVER_NEAR_ZERO = 16.0
"""A logit of this size is a probability of 1 - 1e-7. An output that is always larger is none."""


@dataclass(frozen=True)
class Reading:
    """How to read what a network returns.

    Attributes:
        head: The output that is explained; None if the network returns one tensor, or nothing that
            could be chosen.
        inner: What the network applies to its scores, or None.
        captured: Whether the scores before that can be had in a pass.
        many_labels: Whether another output shows that each score has a sigmoid of its own.
        value: Least and greatest value of a single output that cannot be a logit; else None.
    """

    head: Head | None = None
    inner: Inner | None = None
    captured: bool = False
    many_labels: bool = False
    value: tuple[float, float] | None = None


class InputsOfProbabilities(TorchFunctionMode):
    """Within its context, remembers what softmax and sigmoid were last applied to."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: deque[tuple[Inner, Tensor, Tensor]] = deque(maxlen=8)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls a function of torch, and remembers the call if it makes probabilities."""
        found = func(*args, **(kwargs or {}))
        inner = _APPLIED.get(getattr(func, "__name__", ""))
        if inner is not None and isinstance(found, Tensor):
            given = args[0] if args else (kwargs or {}).get("input")
            if isinstance(given, Tensor) and given.shape == found.shape and given is not found:
                self._seen.append((inner, given, found))
        return found

    def before(self, probabilities: Tensor, inner: Inner) -> Tensor | None:
        """What a tensor is the softmax or sigmoid of; None if that was not seen.

        Args:
            probabilities: ``(N, K)``, or that with axes of length 1.
            inner: What was applied.
        """
        for name, given, found in reversed(self._seen):
            same = found.data_ptr() == probabilities.data_ptr()
            plain = found.is_contiguous() and probabilities.is_contiguous()
            if name == inner and same and plain and found.numel() == probabilities.numel():
                return given.reshape(probabilities.shape)
        return None


_APPLIED: dict[str, Inner] = {
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
    "expit": "sigmoid",
    "log_sigmoid": "log_sigmoid",
    "logsigmoid": "log_sigmoid",
}


def scores_of(probabilities: Tensor, inner: Inner) -> Tensor:
    """Scores with these probabilities: their logarithms, or their logits."""
    if inner == "log_softmax":
        return probabilities
    least = torch.finfo(probabilities.dtype).tiny
    if inner == "softmax":
        return probabilities.clamp_min(least).log()
    if inner == "log_sigmoid":
        return probabilities - (-probabilities.exp()).log1p().clamp_min(math.log(least))
    most = 1 - torch.finfo(probabilities.dtype).eps / 2
    inside = probabilities.clamp(least, most)
    return inside.log() - (-inside).log1p()


def text_of_scores(inner: Inner, *, captured: bool) -> str:
    """What is explained of a network that returns probabilities, in words.

    Args:
        inner: What the network applies.
        captured: Whether the scores before that are explained.
    """
    own = "sigmoid" if inner in SIGMOIDS else "softmax"
    if captured:
        return f"class score (logit) before the network's own {own}"
    if own == "softmax":
        return "log-probability, as the network returns probabilities"
    return "logit of the probability that the network returns"


def probes(size: Sequence[int], like: Tensor) -> Iterator[Tensor]:
    """A few inputs, ``(1, *size)``: noise, a plain picture, and noise of a high contrast.

    Args:
        size: Shape of the input, without the batch.
        like: A tensor of the type and on the device of the inputs.
    """
    generator = torch.Generator().manual_seed(0)
    for factor in (1.0, 1.0, 0.0, 10.0):
        yield (factor * torch.randn((1, *size), generator=generator)).to(like)


def read_outputs(
    module: nn.Module,
    inputs: Iterator[Tensor],
    *,
    choice: OutputChoice = None,
    labels: int | None = None,
    kind: Kind = "classes",
) -> Reading:
    """Runs a network on a few inputs, and determines how to interpret its output.

    Args:
        module: The network.
        inputs: The inputs; those after the first may fail.
        choice: The output that a caller has chosen, or None.
        labels: How many class labels there are; None if that is not known.
        kind: What the task's outputs are: scores of classes, of classes at every pixel, values, or
            anything.

    Raises:
        InvalidArgument: If there is no such output as the chosen one.
        Exception: Whatever the network raises on the first input.
    """
    raws = []
    with frozen_eval(module):
        for number, batch in enumerate(inputs):
            if number == 0:
                outside = torch.inference_mode(False), torch.enable_grad()
                with outside[0], outside[1], InputsOfProbabilities() as seen:
                    raws.append(module(batch.clone().requires_grad_(True)))
                continue
            try:
                with torch.no_grad():
                    raws.append(module(batch))
            except Exception:  # noqa: BLE001  (the first input is the one that must work)
                break
    if choice is not None:
        head: Head | None = Head.of(choice, raws[0])
        many = False
    else:
        path, many = _main(raws, labels, kind)
        others = tuple("/".join(map(str, each)) for each in named_outputs(raws[0]))
        head = Head(path, others) if path else None
    if kind not in ("classes", "pixels"):
        return Reading(head)
    return _judged(head, raws, seen, kind, many_labels=many)


def _judged(
    head: Head | None,
    raws: Sequence[Any],
    seen: InputsOfProbabilities,
    kind: Kind,
    *,
    many_labels: bool,
) -> Reading:
    """What was applied to the scores of an output."""
    found = [_with_batch(raw if head is None else head.read(raw), kind) for raw in raws]
    if not isinstance(found[0], Tensor) or not _FITS[kind](found[0]):
        return Reading(head, many_labels=many_labels)
    alike = (t for t in found if isinstance(t, Tensor) and t.shape == found[0].shape)
    values = torch.cat([_rows(each) for each in alike])
    values = values[values.isfinite().all(dim=1)]
    if not len(values):
        return Reading(head, many_labels=many_labels)
    inner = _applied(found[0], values)
    if inner is None:
        usual = values[:3, 0] if values.shape[1] == 1 and kind == "classes" else None
        return Reading(head, many_labels=many_labels, value=_value(usual))
    before = seen.before(found[0], inner)
    captured = False
    if before is not None:
        again = _apply(inner, _rows(before))
        captured = torch.allclose(again, _rows(found[0]), atol=_tolerance(found[0]))
    return Reading(head, inner, captured, inner in SIGMOIDS and values.shape[1] > 1)


def _value(found: Tensor | None) -> tuple[float, float] | None:
    """The range of a single output that cannot be that of a logit."""
    if found is None or not bool((found.abs() > _NEVER_NEAR_ZERO).all()):
        return None
    low, high = float(found.min()), float(found.max())
    return (low, high) if low * high > 0 else None


def _applied(first: Tensor, values: Tensor) -> Inner | None:
    """What values ``(P, K)`` of P inputs, and the graph of the first, show to have been applied."""
    near = _tolerance(first)
    last = _last_function(first)
    if values.shape[1] > 1:
        if bool((values >= -near).all() and ((values.sum(dim=1) - 1).abs() <= near).all()):
            return "softmax"
        if bool((values <= near).all() and (values.logsumexp(dim=1).abs() <= near).all()):
            return "log_softmax"
    if last == "LogSigmoid":
        return "log_sigmoid"
    if not bool(((values >= -near) & (values <= 1 + near)).all()):
        return None
    if last in ("Sigmoid", "Hardsigmoid"):
        return "sigmoid"
    # Scores cut off by a ReLU may lie in [0, 1] as well: some function must have bounded them.
    bounded = any(name in _BOUNDED for name in _nearest(first))
    moves = bool((values.std(dim=0) > 0).any()) if len(values) > 1 else False
    return "sigmoid" if bounded and moves and last not in ("Relu", "Addmm", "Mm") else None


def _apply(inner: Inner, scores: Tensor) -> Tensor:
    if inner in SIGMOIDS:
        return scores.sigmoid() if inner == "sigmoid" else functional.logsigmoid(scores)
    return scores.softmax(dim=1) if inner == "softmax" else scores.log_softmax(dim=1)


def _tolerance(tensor: Tensor) -> float:
    return 1e-3 if torch.finfo(tensor.dtype).eps < 1e-4 else 2e-2


def _rows(tensor: Tensor) -> Tensor:
    """``(P, K)`` scores of an output for one image: one row, or one per pixel; at most some 500."""
    flat = tensor.detach().double().cpu()
    if flat.ndim == 3 and min(flat.shape[1:]) > 1:
        flat = flat[:, None]
    if flat.ndim == 4 and flat.shape[2] * flat.shape[3] > 1:
        pixels = flat.flatten(2)[0].T
        return pixels[:: -(-len(pixels) // 500)]
    return flat.reshape(1, -1)


def with_batch(output: Tensor) -> Tensor:
    """An output for one image with the dimension of the batch, if ``squeeze()`` removed it."""
    return output if output.ndim > 0 and len(output) == 1 else output[None]


def _with_batch(output: Any, kind: Kind) -> Any:
    without = isinstance(output, Tensor) and output.ndim in WITHOUT_BATCH.get(kind, ())
    return with_batch(output) if without else output


def _is_scores(tensor: Tensor) -> bool:
    """Whether a tensor is one row of scores: ``(1,)``, or ``(1, K)`` with axes of length 1."""
    plain = tensor.is_floating_point() and tensor.ndim >= 1 and tensor.numel() > 0
    return plain and len(tensor) == 1 and all(length == 1 for length in tensor.shape[2:])


def _is_pixels(tensor: Tensor) -> bool:
    """Whether a tensor is a map of scores: ``(1, K, rows, cols)`` or ``(1, rows, cols)``."""
    return tensor.is_floating_point() and tensor.ndim in (3, 4) and len(tensor) == 1


def _is_values(tensor: Tensor) -> bool:
    plain = tensor.is_floating_point() and tensor.ndim in (1, 2) and tensor.numel() > 0
    return plain and len(tensor) == 1


Kind = Literal["classes", "pixels", "values", "any"]
"""What an output holds."""

_FITS: dict[Kind, Callable[[Tensor], bool]] = {
    "classes": _is_scores,
    "pixels": _is_pixels,
    "values": _is_values,
    "any": lambda tensor: True,
}


def _main(raws: Sequence[Any], labels: int | None, kind: Kind) -> tuple[Path, bool]:
    """The path of the main output, empty if there is only one; and whether it has many labels."""
    outputs = named_outputs(raws[0])
    if () in outputs:
        return (), False
    fitting = {path: tensor for path, tensor in outputs.items() if _FITS[kind](tensor)}
    if not fitting:
        single = {path: _with_batch(tensor, kind) for path, tensor in outputs.items()}
        fitting = {path: tensor for path, tensor in single.items() if _FITS[kind](tensor)}
    if len(fitting) < 2 and len(outputs) < 2:
        return next(iter(outputs), ()), False
    if not fitting:
        return (), False
    for key in MAIN_KEYS:
        if (key,) in fitting:
            return (key,), _twin(raws, (key,), fitting) in SIGMOIDS
    paths = list(fitting)
    if labels is not None:
        widths = {1, 2} if labels == 2 else {labels}
        paths = [path for path in paths if _width(fitting[path]) in widths] or paths
    if kind == "classes":
        paths = [path for path in paths if _width(fitting[path]) > 1] or paths
    twins = {path: _twin(raws, path, fitting, made=True) for path in paths}
    paths = [path for path in paths if twins[path] is None] or paths
    nodes = {path: _ancestors(fitting[path]) for path in paths}
    paths = [
        path
        for path in paths
        if not any(
            other != path and fitting[path].grad_fn in nodes[other]
            for other in paths
            if fitting[path].grad_fn is not fitting[other].grad_fn
        )
    ] or paths
    deepest, *others = sorted(paths, key=lambda path: -len(nodes[path]))
    clearly = not others or len(nodes[deepest]) >= _DEEPER * len(nodes[others[0]])
    main = deepest if clearly else paths[0]
    return main, _twin(raws, main, fitting) in SIGMOIDS


def _width(tensor: Tensor) -> int:
    return int(tensor.shape[1]) if tensor.ndim > 1 else 1


def _twin(
    raws: Sequence[Any], path: Path, fitting: Mapping[Path, Tensor], *, made: bool = False
) -> Inner | None:
    """What was applied to this output to get another one; or, if it was made, the reverse."""
    for other in fitting:
        if other != path and fitting[other].shape == fitting[path].shape:
            before, after = (other, path) if made else (path, other)
            for inner in _INNERS:
                if _is_applied(raws, before, after, inner):
                    return inner
    return None


def _is_applied(raws: Sequence[Any], before: Path, after: Path, inner: Inner) -> bool:
    """Whether one output is that function of another, for all inputs."""
    for raw in raws:
        outputs = named_outputs(raw)
        if before not in outputs or after not in outputs:
            return False
        scores, expected = _rows(outputs[before]), _rows(outputs[after])
        if scores.shape != expected.shape or scores.shape[1] < 1:
            return False
        if inner not in SIGMOIDS and scores.shape[1] < 2:
            return False
        if not torch.allclose(_apply(inner, scores), expected, atol=_tolerance(outputs[after])):
            return False
    return True


def _ancestors(tensor: Tensor) -> set[Any]:
    """The graph nodes that a tensor was computed by, its own left out."""
    found: set[Any] = set()
    pending = [tensor.grad_fn]
    while pending:
        node = pending.pop()
        for parent, _ in getattr(node, "next_functions", ()):
            if parent is not None and parent not in found:
                found.add(parent)
                pending.append(parent)
    return found


def _last_function(tensor: Tensor) -> str | None:
    """The name of the last operation that changed values, without ``Backward0``."""
    pending = [tensor.grad_fn]
    names = set()
    while pending:
        node = pending.pop()
        if node is None:
            continue
        name = type(node).__name__
        if name.startswith((*_PLAIN, "Cat", "Stack")):
            pending += [parent for parent, _ in node.next_functions]
        else:
            names.add(name.partition("Backward")[0])
    return names.pop() if len(names) == 1 else None


def _nearest(tensor: Tensor) -> Iterator[str]:
    """Names of the graph nodes just before a tensor."""
    level = [tensor.grad_fn]
    for _ in range(_NEAR):
        after = []
        for node in level:
            if node is not None:
                yield type(node).__name__.partition("Backward")[0]
                after += [parent for parent, _ in node.next_functions]
        level = after[:16]
