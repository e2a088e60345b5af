"""Heads: the outputs of a network in whatever container, and the one that is explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cam_hub._text import first_line
from cam_hub.errors import InvalidArgument
from cam_hub.options import OutputChoice, name_of

__all__ = [
    "Head",
    "Path",
    "named_outputs",
    "sliced",
]


Path = tuple[str | int, ...]
"""Keys and indices from what a network returns to one of its tensors."""

_ARGUMENT = "output"


@dataclass(frozen=True)
class Head:
    """One output of a network.

    Attributes:
        choice: Its path, or a function of everything that the network returns.
        others: Names of all outputs, for results; empty if there is nothing to choose from.
    """

    choice: Path | Callable[[Any], Any]
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, choice: OutputChoice, raw: Any) -> Head:
        """The output that a caller has chosen.

        Args:
            choice: As ``check_options`` returns it, not None.
            raw: What the network returns for one image.

        Raises:
            InvalidArgument: If there is no such output, or the function does not give one.
        """
        others = tuple(map(text_of, named_outputs(raw)))
        if callable(choice):
            head = cls(choice, others)
            _check_function(head, raw)
            return head
        if isinstance(raw, Tensor):
            shape = tuple(raw.shape)
            raise InvalidArgument(
                _ARGUMENT, choice, f"None, since the network returns one tensor, of shape {shape}"
            )
        path: Any = choice if isinstance(choice, tuple) else (choice,)
        known = {text_of(inner): inner for inner in named_outputs(raw)}
        if isinstance(choice, str) and choice in known:  # as results name it: heads/1
            path = known[choice]
        exact = tuple(_steps(raw, path, choice, others))
        found = cls(exact, others).read(raw)
        if not isinstance(found, Tensor):
            inner = next(iter(named_outputs(found)), None)
            if inner is None:
                raise InvalidArgument(
                    _ARGUMENT, choice, f"an output with a tensor in it: {_listed(raw)}"
                )
            exact += inner
        return cls(exact, others)

    @property
    def name(self) -> str:
        """Its name in results."""
        return name_of(self.choice) if callable(self.choice) else text_of(self.choice)

    def read(self, raw: Any) -> Any:
        """This output out of everything that the network returns."""
        if callable(self.choice):
            return self.choice(raw)
        for step in self.choice:
            raw = _part(raw, step)
        return raw

    def describe(self) -> dict[str, Any]:
        """For the manifest: the name of the output, and those of all."""
        return {"output": self.name, "outputs": list(self.others)}


def named_outputs(raw: Any) -> dict[Path, Tensor]:
    """All tensors that a network returns, by their paths; a single tensor has the empty one."""
    return dict(_walk(raw, ()))


def text_of(path: Path) -> str:
    """A path as people write it: ``"aux/0"``."""
    return "/".join(map(str, path))


def is_batch(value: Any, count: int) -> bool:
    """Whether a value holds one entry for each of ``count`` images."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count


def sliced(raw: Any, start: int, stop: int, count: int) -> Any:
    """What a network returned for some of ``count`` images; parts that are not per image stay."""
    if isinstance(raw, Tensor):
        return raw[start:stop] if is_batch(raw, count) else raw
    if isinstance(raw, Mapping):
        parts = {key: sliced(value, start, stop, count) for key, value in raw.items()}
        return parts if type(raw) is dict else _rebuilt(raw, parts)
    if isinstance(raw, tuple) and hasattr(raw, "_fields"):
        return type(raw)(*(sliced(value, start, stop, count) for value in raw))
    if isinstance(raw, (tuple, list)):
        if len(raw) == count and not any(isinstance(value, Tensor) for value in raw):
            return type(raw)(raw[start:stop])  # one entry per image, as detectors return
        return type(raw)(sliced(value, start, stop, count) for value in raw)
    if dataclasses.is_dataclass(raw) and not isinstance(raw, type):
        fields = {field.name: getattr(raw, field.name) for field in dataclasses.fields(raw)}
        parts = {key: sliced(value, start, stop, count) for key, value in fields.items()}
        return dataclasses.replace(raw, **parts)
    return raw


def _rebuilt(raw: Mapping[Any, Any], parts: dict[Any, Any]) -> Any:
    try:
        return type(raw)(**parts)
    except TypeError:
        return parts


def _walk(raw: Any, path: Path) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(raw, Tensor):
        yield path, raw
        return
    for key, value in _parts(raw):
        yield from _walk(value, (*path, key))


def _parts(raw: Any) -> list[tuple[str | int, Any]]:
    """The parts of a container by key, field or index; none of anything else."""
    if isinstance(raw, Mapping):
        return [(key if isinstance(key, (str, int)) else str(key), raw[key]) for key in raw]
    if isinstance(raw, tuple) and hasattr(raw, "_fields"):
        return list(zip(raw._fields, raw, strict=True))
    if isinstance(raw, Sequence) and not isinstance(raw, (str, bytes)):
        return list(enumerate(raw))
    if dataclasses.is_dataclass(raw) and not isinstance(raw, type):
        return [(field.name, getattr(raw, field.name)) for field in dataclasses.fields(raw)]
    return []


def _part(raw: Any, step: str | int) -> Any:
    found = dict(_parts(raw))
    if step in found:
        return found[step]
    raise KeyError(step)


def _steps(raw: Any, path: Path, choice: Any, others: Sequence[str]) -> Iterator[str | int]:
    """The exact keys of a path in which a number may also be written as a text."""
    for step in path:
        parts = _parts(raw)
        keys = [key for key, _ in parts]
        exact: str | int | None = step if step in keys else None
        if exact is None:
            try:
                exact = keys[int(step)]
            except (ValueError, IndexError):
                known = ", ".join(map(repr, keys)) or "none"
                expected = f"one of the outputs of the network: {known}"
                if len(others) > len(keys):
                    expected += f" (in full: {', '.join(others)})"
                raise InvalidArgument(_ARGUMENT, choice, expected) from None
        yield exact
        raw = dict(parts)[exact]


def _listed(raw: Any) -> str:
    return ", ".join(
        f"{text_of(path)!r} {tuple(tensor.shape)}" for path, tensor in named_outputs(raw).items()
    )


def _check_function(head: Head, raw: Any) -> None:
    name = head.name
    try:
        with torch.no_grad():
            found = head.read(raw)
    except Exception as error:  # whatever a caller's function raises
        expected = f"a function of what the network returns ({_listed(raw)})"
        expected += f"; it raised: {first_line(error)}"
        raise InvalidArgument(_ARGUMENT, name, expected) from error
    if not isinstance(found, Tensor) or not found.is_floating_point():
        seen = f"{found.dtype} tensor" if isinstance(found, Tensor) else type(found).__name__
        expected = f"a function that returns a floating-point tensor; it returned: {seen}"
        raise InvalidArgument(_ARGUMENT, name, expected)
