"""Options of an explanation in one table: every interface offers what stands here.

The Python functions, the command line, the endpoints, the page, its links and code snippets, and
the manifest all follow ``OPTIONS``. A new option is one entry here, an argument of the Python
functions of the same name, and the code that uses it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from cam_hub.errors import InvalidArgument

__all__ = [
    "OPTIONS",
    "Option",
    "OutputChoice",
    "check_options",
    "name_of",
    "read_options",
    "recorded",
    "unrecorded",
]

OutputChoice = str | int | tuple[str | int, ...] | Callable[[Any], Any] | None
"""How an output of a network may be named: its key, its index, both in a row for nested outputs, a
function of everything that the network returns; None for the main one."""


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: Of the argument, in every interface.
        kind: ``"choice"`` for one of ``choices``, ``"whole"`` for a whole number or none,
            ``"output"`` for an ``OutputChoice``.
        default: Its value if nothing is given.
        help: What it does: for the command line, the endpoints and their documentation.
        title: Its name on the page.
        choices: What a choice can be, with the words for it on the page.
        compares: Whether a comparison takes it, too.
        predicts: Whether ``predict`` takes it, too.
    """

    name: str
    kind: Literal["choice", "whole", "output"]
    default: Any
    help: str
    title: str
    choices: Mapping[str, str] = field(default_factory=dict)
    compares: bool = True
    predicts: bool = False

    def check(self, value: Any) -> Any:
        """The value of a Python argument.

        Raises:
            InvalidArgument: If it can never work.
        """
        if self.kind == "choice":
            if not isinstance(value, str) or value not in self.choices:
                expected = f"one of {', '.join(self.choices)}"
                if self.name == "target":  # other libraries call the class so
                    expected += "; the class to explain is classes="
                raise InvalidArgument(self.name, value, expected)
            return value
        if value is None:
            return None
        if self.kind == "whole":
            try:
                if isinstance(value, bool):
                    raise TypeError
                return operator.index(value)
            except TypeError:
                raise InvalidArgument(self.name, value, "None or a whole number") from None
        return _check_output(self.name, value)

    def read(self, text: Any) -> Any:
        """The value of a text, as the command line, the endpoints and links have it.

        Args:
            text: A text, which may be empty for the default; numbers are taken, too.

        Raises:
            InvalidArgument: If it can mean nothing.
        """
        if text is None or (isinstance(text, str) and not text.strip()):
            return self.default
        if not isinstance(text, (str, int, float)) or isinstance(text, bool):
            raise InvalidArgument(self.name, text, "a text")
        given = str(text).strip()
        if self.kind == "whole":
            try:
                return int(float(given)) if float(given).is_integer() else int(given)
            except (ValueError, OverflowError):
                raise InvalidArgument(self.name, text, "a whole number, or nothing") from None
        return self.check(given)

    def text(self, value: Any) -> str:
        """A value as ``read`` takes it; empty for the default."""
        return "" if value == self.default else str(value)


OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {
        option.name: option
        for option in (
            Option(
                "sign",
                "choice",
                "for",
                "evidence for the class, against it, or both in one signed map",
                "Evidence",
                MappingProxyType(
                    {"for": "for the class", "against": "against it", "both": "both, signed"}
                ),
            ),
            Option(
                "target",
                "choice",
                "logit",
                "what is explained: the class's logit, or its probability",
                "Explained score",
                MappingProxyType({"logit": "logit", "probability": "probability"}),
            ),
            Option(
                "output",
                "output",
                None,
                "of a network with several outputs: the key or index of the one to explain",
                "Output",
                predicts=True,
            ),
            Option(
                "call",
                "whole",
                None,
                "of a layer that runs several times: which of its calls, from 0",
                "Call",
            ),
        )
    }
)
"""All options by name, in the order in which they are offered."""


def check_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks Python arguments.

    Args:
        values: Some of the options by name.

    Raises:
        InvalidArgument: If one of them can never work.
    """
    return {name: OPTIONS[name].check(value) for name, value in values.items()}


def read_options(texts: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all options; the defaults of those that are missing or empty.

    Args:
        texts: By name, as ``Option.read`` takes them.

    Raises:
        InvalidArgument: If one of them can mean nothing.
    """
    return {name: option.read(texts.get(name)) for name, option in OPTIONS.items()}


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """All options as the manifest records them: JSON types only.

    A function is recorded by its name, which cannot be run again: ``reproduce`` takes it anew.

    Args:
        values: Options by name, and anything else; a missing one has its default.
    """
    return {name: _plain(values.get(name, option.default)) for name, option in OPTIONS.items()}


def unrecorded(found: Mapping[str, Any], functions: Mapping[str, Any]) -> dict[str, Any]:
    """The Python arguments that a manifest has recorded.

    Args:
        found: What ``recorded`` gave; empty in older manifests.
        functions: By option, the function that is used where only a name could be recorded; None
            if there is none.

    Raises:
        InvalidArgument: If a function was recorded and none is given, or the other way round.
    """
    values = {name: found.get(name, option.default) for name, option in OPTIONS.items()}
    for name, function in functions.items():
        if isinstance(values[name], Mapping) == (function is None):
            used = values[name]["function"] if isinstance(values[name], Mapping) else None
            expected = f"the function {used!r} that was used" if used else "None: there was none"
            raise InvalidArgument(name, function, expected)
        if function is not None:
            values[name] = function
    return values


def name_of(function: Callable[..., Any]) -> str:
    """The name under which results mention a function."""
    name = getattr(function, "__name__", None) or type(function).__name__
    return "custom score" if name == "<lambda>" else str(name)


def _plain(value: Any) -> Any:
    if callable(value):
        return {"function": name_of(value)}
    return list(value) if isinstance(value, tuple) else value


def _check_output(name: str, value: Any) -> Any:
    if callable(value):
        return value
    parts = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    steps: list[str | int] = []
    for part in parts:
        if isinstance(part, str) and part:
            steps.append(part)
            continue
        try:
            if isinstance(part, bool):
                raise TypeError
            steps.append(operator.index(part))
        except TypeError:
            expected = "a key, an index, a function of what the network returns, or None"
            raise InvalidArgument(name, value, expected) from None
    if not steps:
        raise InvalidArgument(name, value, "a key or an index, or None for the main output")
    return steps[0] if len(steps) == 1 else tuple(steps)
