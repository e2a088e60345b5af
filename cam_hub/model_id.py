"""The grammar of model IDs.

    ID          = hub | torchvision | bare
    hub         = ["hf-hub:"] OWNER "/" NAME ["@" REVISION]    timm/resnet50.a1_in1k@main
    torchvision = "torchvision/" NAME ["@" WEIGHTS]            torchvision/resnet50@IMAGENET1K_V2
    bare        = ARCHITECTURE ["." TAG]                       resnet50.a1_in1k

OWNER, NAME and the rest are letters, digits, ``.``, ``_`` and ``-`` as the Hub allows them; a
REVISION (branch, tag or commit) may also hold ``/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cam_hub.errors import ModelNotFound

__all__ = ["ModelId", "parse_model_id"]

Kind = Literal["hub", "torchvision", "timm"]

_WORD = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?\Z")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]{0,254}[A-Za-z0-9_])?\Z")
_PREFIX = "hf-hub:"
_GRAMMAR = (
    "IDs look like 'timm/resnet50.a1_in1k', 'owner/name@revision', 'torchvision/resnet50', "
    "'torchvision/resnet50@IMAGENET1K_V2' or 'resnet50.a1_in1k'."
)


@dataclass(frozen=True)
class ModelId:
    """One model, by name.

    Attributes:
        kind: Which naming scheme the ID follows: a repo on the Hub, a torchvision model, or a
            bare name of timm's.
        name: ``owner/name`` for a Hub repo, otherwise the model's name without prefix or
            revision.
        revision: Branch, tag or commit of a Hub repo; the weights' name for torchvision; None
            when the ID leaves the choice open.
    """

    kind: Kind
    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        words = self.name.split("/")
        fits = len(words) == (2 if self.kind == "hub" else 1)
        if not fits or not all(_is_word(word) for word in words):
            raise ModelNotFound(self.name, hint=_GRAMMAR)
        if self.revision is not None and (
            not _REVISION.match(self.revision)
            or any(not part or part.startswith(".") for part in self.revision.split("/"))
            or ".." in self.revision
        ):
            raise ModelNotFound(f"{self.name}@{self.revision}", hint=_GRAMMAR)
        if self.revision is not None and self.kind == "timm":
            raise ModelNotFound(
                f"{self.name}@{self.revision}",
                nearest=[f"timm/{self.name}@{self.revision}"],
                hint="A bare timm name takes no revision.",
            )

    def __str__(self) -> str:
        prefix = "torchvision/" if self.kind == "torchvision" else ""
        suffix = f"@{self.revision}" if self.revision is not None else ""
        return f"{prefix}{self.name}{suffix}"

    @property
    def repo(self) -> str:
        """The ID without its revision."""
        return str(ModelId(self.kind, self.name))


def parse_model_id(text: str) -> ModelId:
    """Reads a model ID.

    Args:
        text: An ID in the grammar above; white space around it is dropped.

    Returns:
        The ID, for which ``parse_model_id(str(id)) == id``.

    Raises:
        ModelNotFound: If the text is not in the grammar.
    """
    if not isinstance(text, str):
        raise ModelNotFound(text, hint=_GRAMMAR)
    rest = text.strip().removeprefix(_PREFIX)
    name, at, revision = rest.partition("@")
    if name.startswith("torchvision/") and _PREFIX not in text:
        kind, name = "torchvision", name.removeprefix("torchvision/")
    else:
        kind = "hub" if "/" in name or _PREFIX in text else "timm"
    try:
        return ModelId(kind, name, revision if at else None)  # type: ignore[arg-type]
    except ModelNotFound as error:
        # The message shows what was typed, not a piece of it.
        raise ModelNotFound(text, error.nearest, hint=_GRAMMAR) from None


def _is_word(word: str) -> bool:
    return bool(_WORD.match(word)) and ".." not in word and "--" not in word
