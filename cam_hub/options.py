"""Options of an explanation in one table: every interface offers what stands here.

The Python functions, the command line, the endpoints, the page, its links and code snippets, and
the manifest all follow ``OPTIONS``. A new option is one entry here, its type in ``OptionValues``,
and the code that uses it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypedDict

from cam_hub.errors import InvalidArgument, nearest_names

__all__ = [
    "OPTIONS",
    "SWITCH_WORDS",
    "Interface",
    "Option",
    "OptionValues",
    "OutputChoice",
    "check_options",
    "name_of",
    "options_for",
    "read_options",
    "recorded",
    "unrecorded",
]

OutputChoice = str | int | tuple[str | int, ...] | Callable[[Any], Any] | None
"""How an output of a network may be named: its key, its index, both in a row for nested outputs, a
function of everything that the network returns; None for the main one."""


class OptionValues(TypedDict, total=False):
    """The options as Python arguments, with their types."""

    sign: Literal["for", "against", "both"]
    target: str
    output: OutputChoice
    call: int | None
    background: object
    batch_size: int
    autocast: str | None
    reuse: bool
    sampling: str
    evidence: str | Iterable[str] | None


Interface = Literal["explain", "many", "compare", "predict", "page"]
"""Where an option is available: ``explain`` and ``explain_methods``, ``explain_many``, ``compare``,
``predict``, each with its command and its endpoint; and the page with its links."""

_ALL: Final = frozenset[Interface](("explain", "many", "compare", "page"))


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: The name of the argument, in every interface.
        kind: ``"choice"`` for one of ``choices`` (or none, where None is the default), ``"whole"``
            for a whole number or none, ``"count"`` for a whole number of at least 1, ``"switch"``
            for true or false, ``"image"`` for an image or none, ``"output"`` for an
            ``OutputChoice``, ``"checks"`` for several of ``choices``, as a tuple, or none.
        default: Its value if nothing is given.
        help: What it does: for the command line, the endpoints and their documentation.
        title: Its name on the page.
        choices: What a choice can be, with the words for it on the page.
        interfaces: Where it is available.
        recorded: Whether it stands among the options of the manifest. Others stand elsewhere in
            the manifest, or have no influence on the maps.
    """

    name: str
    kind: Literal["choice", "whole", "count", "switch", "image", "output", "checks"]
    default: Any
    help: str
    title: str
    choices: Mapping[str, str] = field(default_factory=dict)
    interfaces: frozenset[Interface] = _ALL
    recorded: bool = True

    @property
    def flag(self) -> str:
        """On the command line: of a switch that is on by default, the one that turns it off."""
        negated = "no-" if self.kind == "switch" and self.default else ""
        return f"--{negated}{self.name.replace('_', '-')}"

    @property
    def default_text(self) -> str:
        """The default in words."""
        if self.default is not None:
            return str(self.default)
        return {"output": "the main one", "whole": "the last one"}.get(self.kind, "none")

    def check(self, value: Any) -> Any:
        """The value of a Python argument.

        Raises:
            InvalidArgument: If it can never work.
        """
        if value is None and self.default is None:
            return None
        if self.kind == "image":
            return value
        if self.kind == "switch":
            if not isinstance(value, bool):
                raise InvalidArgument(self.name, value, "True or False")
            return value
        if self.kind == "choice":
            if not isinstance(value, str) or value not in self.choices:
                none = "None or " if self.default is None else ""
                expected = f"{none}one of {', '.join(self.choices)}"
                if self.name == "target":  # other libraries call the class so
                    expected += "; the class to explain is classes="
                raise InvalidArgument(self.name, value, expected)
            return value
        if self.kind == "output":
            return _check_output(self.name, value)
        if self.kind == "checks":
            return _check_names(self.name, value, self.choices)
        counts = self.kind == "count"
        expected = "a count of at least 1" if counts else "None or a whole number"
        try:
            if isinstance(value, bool):
                raise TypeError
            number = operator.index(value)
        except TypeError:
            raise InvalidArgument(self.name, value, expected) from None
        if counts and number < 1:
            raise InvalidArgument(self.name, value, expected)
        return number

    def read(self, text: Any) -> Any:
        """The value of a text, as the command line, the endpoints and links have it.

        Args:
            text: A text, which may be empty for the default; numbers are taken, too.

        Raises:
            InvalidArgument: If it can mean nothing.
        """
        if text is None or (isinstance(text, str) and not text.strip()):
            return self.default
        if self.kind == "switch":
            found = SWITCH_WORDS.get(str(text).strip().lower())
            if found is None:
                raise InvalidArgument(self.name, text, "true or false")
            return found
        if self.kind == "checks" and isinstance(text, (list, tuple)):
            return self.check(text) if text else self.default
        if not isinstance(text, (str, int, float)) or isinstance(text, bool):
            raise InvalidArgument(self.name, text, "a text")
        given = str(text).strip()
        if self.kind in ("whole", "count"):
            try:
                whole = int(float(given)) if float(given).is_integer() else int(given)
            except (ValueError, OverflowError):
                nothing = "a whole number, or nothing" if self.kind == "whole" else "a whole number"
                raise InvalidArgument(self.name, text, nothing) from None
            return self.check(whole)
        return self.check(given)

    def text(self, value: Any) -> str:
        """A value as ``read`` takes it; empty for the default."""
        if value == self.default:
            return ""
        return ",".join(value) if isinstance(value, tuple) else str(value)


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
                "of a network with several outputs: the key or index of the one to explain; of "
                "nested ones with slashes, as heads/1",
                "Output",
                interfaces=_ALL | {"predict"},
            ),
            Option(
                "call",
                "whole",
                None,
                "of a layer that runs several times: which of its calls, from 0",
                "Call",
            ),
            Option(
                "background",
                "image",
                None,
                "a picture of the same proportions to draw maps on in place of the image",
                "Background",
                interfaces=frozenset({"explain"}),
                recorded=False,
            ),
            Option(
                "batch_size",
                "count",
                8,
                "maximum number of images in one pass, noisy copies included; reduced "
                "automatically if memory runs out",
                "Batch size",
                interfaces=_ALL - {"page"},
                recorded=False,
            ),
            Option(
                "autocast",
                "choice",
                None,
                "lower precision for what torch can compute in it: faster and smaller on hardware "
                "made for it",
                "Autocast",
                MappingProxyType({"bfloat16": "bfloat16", "float16": "float16"}),
                interfaces=_ALL - {"page"},
                recorded=False,
            ),
            Option(
                "reuse",
                "switch",
                True,
                "whether results of recent passes over the same image are used",
                "Reuse",
                interfaces=frozenset({"explain"}),
                recorded=False,
            ),
            Option(
                "sampling",
                "choice",
                "adaptive",
                "whether SmoothGradCAM++ takes more noisy copies (64 at most) for maps that "
                "another seed would change, or exactly as many as asked for",
                "Noisy copies",
                MappingProxyType({"adaptive": "more if need be", "fixed": "the number, exactly"}),
            ),
            Option(
                "evidence",
                "checks",
                None,
                "tests of the map against the model, with commas between them, as "
                "cover,class_check; or all",
                "Tests",
                MappingProxyType(
                    {
                        "cover": "cover the hottest pixels",
                        "class_check": "compare with the maps of other classes",
                        "road": "remove pixels in the order of their heat",
                        "curves": "insertion and deletion curves",
                        "stability": "repeat with invisible noise",
                        "randomised": "repeat with shuffled weights",
                        "focus": "how concentrated the heat is",
                        "pointing_game": "whether the hottest point is on the object",
                        "energy": "how much of the heat is on the object",
                    }
                ),
                interfaces=frozenset({"explain", "many"}),
            ),
        )
    }
)
"""All options by name, in the order in which they are offered."""

SWITCH_WORDS = {"1": True, "true": True, "yes": True, "on": True}
SWITCH_WORDS |= {"0": False, "false": False, "no": False, "off": False}


def options_for(interface: Interface) -> dict[str, Option]:
    """The options that are available in an interface, by name.

    Args:
        interface: One of ``Interface``.
    """
    return {name: option for name, option in OPTIONS.items() if interface in option.interfaces}


def check_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks Python arguments.

    Args:
        values: Some of the options by name.

    Raises:
        InvalidArgument: If one of them can never work.
    """
    return {name: OPTIONS[name].check(value) for name, value in values.items()}


def read_options(texts: Mapping[str, Any], interface: Interface = "explain") -> dict[str, Any]:
    """The values of the options of an interface; the defaults of those that are missing or empty.

    Args:
        texts: By name, as ``Option.read`` takes them.
        interface: One of ``Interface``.

    Raises:
        InvalidArgument: If one of them can mean nothing.
    """
    return {name: option.read(texts.get(name)) for name, option in options_for(interface).items()}


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the manifest, as it records them: JSON types only.

    A function is recorded by its name, which cannot be run again: ``reproduce`` takes it anew.

    Args:
        values: Options by name, and anything else; a missing one has its default.
    """
    found = {}
    for name, option in OPTIONS.items():
        if option.recorded:
            value = values.get(name, option.default)
            value = {"function": name_of(value)} if callable(value) else value
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def unrecorded(found: Mapping[str, Any], functions: Mapping[str, Any]) -> dict[str, Any]:
    """The Python arguments that a manifest has recorded.

    Args:
        found: What ``recorded`` gave; empty in older manifests.
        functions: By option, the function that is used where only a name could be recorded; None
            if there is none.

    Raises:
        InvalidArgument: If a function was recorded and none is given, or the other way round.
    """
    values = {
        name: found.get(name, option.default) for name, option in OPTIONS.items() if option.recorded
    }
    for name, function in functions.items():
        recorded_one = isinstance(values[name], Mapping)
        if recorded_one == (function is None):
            used = values[name].get("function", "") if recorded_one else None
            expected = "None: there was none"
            if recorded_one:
                expected = f"the function {used!r} that was used"
            raise InvalidArgument(name, function, expected)
        if function is not None:
            values[name] = function
    return values


def name_of(function: Callable[..., Any]) -> str:
    """The name under which results mention a function."""
    name = getattr(function, "__name__", None) or type(function).__name__
    return "custom score" if name == "<lambda>" else str(name)


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


def _check_names(name: str, value: Any, choices: Iterable[str]) -> tuple[str, ...]:
    """Names of tests: one text with commas, or several texts; ``"all"`` for each of them."""
    known = tuple(choices)
    expected = f"names out of {', '.join(known)}, or 'all'"
    parts = value.split(",") if isinstance(value, str) else value
    single = not isinstance(parts, Iterable) or getattr(parts, "ndim", 1) == 0
    if single or isinstance(parts, (bytes, Mapping)):
        raise InvalidArgument(name, value, expected)
    found: dict[str, None] = {}  # in order
    for part in parts:
        if not isinstance(part, str):
            raise InvalidArgument(name, part, expected)
        word = part.strip()
        if word == "all":
            found.update(dict.fromkeys(known))
        elif word in known:
            found[word] = None
        elif word:
            near = nearest_names(word, known)
            hint = f" (nearest: {', '.join(near)})" if near else ""
            raise InvalidArgument(name, word, expected + hint)
    if not found:
        raise InvalidArgument(name, value, "at least one test")
    return tuple(found)
