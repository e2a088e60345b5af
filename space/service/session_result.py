"""What the server remembers of a visitor's last result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cam_hub.targets.predictions import Prediction
from space.service.explain_form import ExplainForm

__all__ = ["SessionResult"]


@dataclass(frozen=True)
class SessionResult:
    """A result that can be looked at again.

    Attributes:
        folder: Where its files are. The explanation itself stays there too: sessions cost little
            memory.
        request: What was asked for.
        predictions: The most probable classes.
        photo: What a link says of the photo: an example's name or an address; empty for an upload.
    """

    folder: Path
    request: ExplainForm
    predictions: tuple[Prediction, ...] = ()
    photo: str = ""
