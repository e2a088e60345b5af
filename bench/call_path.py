"""Counts the functions and files on the call path of one explanation.

    python -m bench.call_path

A function counts once, even if it is called several times. The depth is the longest chain of
functions of ``cam_hub`` (and ``space``) on the stack; frames of other packages do not count. A jump
is a call from one file to another. The calls name their method; the choice by evidence is counted
in the last line. The endpoint and the page are called in this process, as Gradio
calls them, with a model that is already loaded.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from itertools import chain
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from gradio.components import Component

__all__ = ["CallPath", "call_path", "main", "measured"]

_ROOT = Path(__file__).resolve().parents[1]
_EXAMPLES = _ROOT / "space" / "examples"
_PHOTOS = "cat.jpg", "coffee.jpg"
_METHOD = "smoothgradcampp"
_PACKAGES = tuple(f"{_ROOT / name}/" for name in ("cam_hub", "space"))


@dataclass
class CallPath:
    """The functions that ran.

    Attributes:
        functions: Their files and qualified names; lambdas and comprehensions count, too.
        jumps: Calls from one file to another, by caller's and callee's file.
        depth: The longest chain.
    """

    functions: set[tuple[str, str]] = field(default_factory=set)
    jumps: set[tuple[str, str, int]] = field(default_factory=set)
    depth: int = 0

    @property
    def files(self) -> set[str]:
        """The files that contain the functions."""
        return {file for file, _ in self.functions}

    @property
    def of_space(self) -> set[tuple[str, str]]:
        """The functions of the app."""
        return {each for each in self.functions if each[0].startswith(_PACKAGES[1])}


@contextmanager
def call_path() -> Iterator[CallPath]:
    """Records the functions that this thread runs in the block."""
    found = CallPath()
    stack: list[CodeType] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGES) or code.co_name == "<module>":
            return
        if event == "call":
            if stack and stack[-1].co_filename != code.co_filename:
                found.jumps.add((stack[-1].co_filename, code.co_filename, frame.f_lineno))
            stack.append(code)
            found.functions.add((code.co_filename, code.co_qualname))
            found.depth = max(found.depth, len(stack))
        elif event == "return" and code in stack:
            while stack.pop() is not code:
                pass

    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(None)


def main() -> None:
    """Prints one line for each interface."""
    print("| call | functions | in `space` | files | jumps | depth |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(CAM_HUB_CACHE=folder, GRADIO_TEMP_DIR=folder)
        for name, found in chain(measured(Path(folder)), [_by_evidence()]):
            print(
                f"| {name} | {len(found.functions)} | {len(found.of_space)} | {len(found.files)} "
                f"| {len(found.jumps)} | {found.depth} |"
            )


def measured(folder: Path) -> Iterator[tuple[str, CallPath]]:
    """The call path of each interface, with its name.

    Args:
        folder: The folder in which Gradio looks for uploads.
    """
    for name, run in chain(_cases(), _space_cases(folder)):
        with call_path() as found:
            run()
        yield name, found


def _cases() -> Iterator[tuple[str, Callable[[], object]]]:
    import cam_hub  # noqa: PLC0415 - after the cache is set
    from cam_hub.sources.store import SHARED  # noqa: PLC0415

    photos = [_EXAMPLES / name for name in _PHOTOS]
    model = cam_hub.load_model(cam_hub.DEFAULT_MODEL, device="cpu")
    cam_hub.explain(model, photos[0], method=_METHOD)
    yield (
        "`explain(model, another_photo)`",
        lambda: cam_hub.explain(model, photos[1], method=_METHOD),
    )
    cam_hub.explain(cam_hub.DEFAULT_MODEL, photos[0], method=_METHOD)
    SHARED.clear()
    yield (
        "`explain(id, photo)`, layers cached",
        lambda: cam_hub.explain(cam_hub.DEFAULT_MODEL, photos[1], method=_METHOD),
    )


def _space_cases(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    import gradio  # noqa: PLC0415 - after the folder for uploads is set

    from space.app.create_app import create_app  # noqa: PLC0415
    from space.config.settings import Settings  # noqa: PLC0415

    photos = [{"path": shutil.copy(_EXAMPLES / name, folder)} for name in _PHOTOS]
    events = create_app(Settings(device="cpu")).fns.values()
    (endpoint,) = (each.fn for each in events if each.fn and each.api_name == "explain")
    parameters = signature(endpoint).parameters
    defaults = {name: each.default for name, each in parameters.items()}

    def call(photo: object) -> object:
        given = {"image": photo, "method": _METHOD, "visitor": None}
        return endpoint(*{**defaults, **given}.values())

    call(photos[0])
    yield "`/explain`", lambda: call(photos[1])
    # Another app, without cached passes.
    events = create_app(Settings(device="cpu")).fns.values()
    button, *_ = (each for each in events if each.fn and each.name == "answer")
    answer = cast("Callable[..., object]", button.fn)
    inputs = cast("list[Component]", button.inputs)

    def press(photo: object) -> object:
        given = {"photo": photo, "method": _METHOD}
        values = {each: given.get(each.elem_id or "", each.value) for each in inputs}
        return answer(values, gradio.Request(), None)

    press(photos[0])
    yield "the page's button", lambda: press(photos[1])


def _by_evidence() -> tuple[str, CallPath]:
    """An explanation by the method and the layer that are chosen for it."""
    import cam_hub  # noqa: PLC0415

    model = cam_hub.load_model(cam_hub.DEFAULT_MODEL, device="cpu")
    cam_hub.explain(model, _EXAMPLES / _PHOTOS[0])
    with call_path() as found:
        cam_hub.explain(model, _EXAMPLES / _PHOTOS[1])
    return "`explain(model, another_photo)`, by evidence", found


if __name__ == "__main__":
    main()
