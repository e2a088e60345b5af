"""Counts the functions and files that one explanation runs through.

    python -m bench.call_path

A function counts once, however often it is called. The depth is the longest chain of functions of
``cam_hub`` (and ``space``) on the stack; frames of other packages do not count. A jump is a call
from a file to another one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["CallPath", "call_path", "main"]

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = tuple(f"{_ROOT / name}/" for name in ("cam_hub", "space"))


@dataclass
class CallPath:
    """What ran.

    Attributes:
        functions: The code objects that ran, without comprehensions and lambdas.
        jumps: Calls from a file to another one, by caller's and callee's file.
        depth: The longest chain.
    """

    functions: set[CodeType] = field(default_factory=set)
    jumps: set[tuple[str, str, int]] = field(default_factory=set)
    depth: int = 0

    @property
    def files(self) -> set[str]:
        """The files in which the functions stand."""
        return {code.co_filename for code in self.functions}


@contextmanager
def call_path() -> Iterator[CallPath]:
    """Records the functions of this thread that run inside of the block."""
    found = CallPath()
    stack: list[CodeType] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGES) or code.co_name.startswith("<"):
            return
        if event == "call":
            if stack and stack[-1].co_filename != code.co_filename:
                found.jumps.add((stack[-1].co_filename, code.co_filename, frame.f_lineno))
            stack.append(code)
            found.functions.add(code)
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
    """Prints one line for each way to ask."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CAM_HUB_CACHE"] = folder
        for name, run in _cases():
            with call_path() as found:
                run()
            print(
                f"| {name} | {len(found.functions)} | {len(found.files)} | {len(found.jumps)} "
                f"| {found.depth} |"
            )


def _cases() -> Iterator[tuple[str, Callable[[], object]]]:
    import cam_hub  # noqa: PLC0415 - after the cache is set
    from cam_hub.sources.store import SHARED  # noqa: PLC0415

    photos = [_ROOT / "space" / "examples" / name for name in ("cat.jpg", "coffee.jpg")]
    print("| call | functions | files | jumps | depth |\n|---|---|---|---|---|")
    model = cam_hub.load_model(cam_hub.DEFAULT_MODEL, device="cpu")
    cam_hub.explain(model, photos[0], method="layercam")
    yield (
        "`explain(model, another_photo)`",
        lambda: cam_hub.explain(model, photos[1], method="layercam"),
    )
    cam_hub.explain(cam_hub.DEFAULT_MODEL, photos[0], method="layercam")
    SHARED.clear()
    yield (
        "`explain(id, photo)`, layers cached",
        lambda: cam_hub.explain(cam_hub.DEFAULT_MODEL, photos[1], method="layercam"),
    )


if __name__ == "__main__":
    main()
