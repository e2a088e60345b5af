"""The pictures of an explanation, painted on first access."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

from PIL import Image

__all__ = ["Pictures"]

Paint = Callable[[], Iterable[Image.Image]]


class Pictures:
    """One picture, or the frames of a clip: upright, RGB, all of one size.

    A picture given as a tensor must be painted first, which takes longer than everything else
    around a small network, and is often not needed. Access is thread-safe.

    Args:
        pictures: The pictures, at least one; or a function that makes them, called on first
            access.
        clip: Whether they are frames.
        facts: What the manifest records of the image, where the pictures are not the image
            itself but what is shown in its place.

    Attributes:
        clip: Whether they are frames.
    """

    def __init__(
        self,
        pictures: Iterable[Image.Image] | Paint,
        *,
        clip: bool = False,
        facts: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._paint = pictures if callable(pictures) else None
        self._frames = None if callable(pictures) else tuple(pictures)
        self._recorded = facts
        self.clip = clip

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: painted."""
        facts = self._recorded
        recorded = None if facts is None else partial(dict[str, Any], self.facts)
        plain = {"_paint": None, "_recorded": recorded, "_frames": self.frames, "clip": self.clip}
        return plain | ({"facts": self.facts} if "facts" in self.__dict__ else {})

    @property
    def frames(self) -> tuple[Image.Image, ...]:
        """The pictures; one for an image."""
        paint = self._paint
        if paint is not None:
            self._frames = tuple(paint())
            self._paint = None  # frees the tensor, too
        if self._frames is None:
            raise AssertionError("neither pictures nor a function that paints them")
        return self._frames

    @property
    def photo(self) -> Image.Image:
        """The picture; for a clip, the frame in the middle."""
        return self.frames[len(self.frames) // 2]

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """The manifest's entry for the picture: its size, and the digest of its pixels.

        For a clip, also the number of frames, and the digest of their digests.
        """
        if self._recorded is not None:
            return self._recorded()
        frames = self.frames
        size = list(frames[0].size)
        if not self.clip:
            return {"size": size, "sha256": _digest(frames[0]).hex()}
        digests = {id(frame): _digest(frame) for frame in {id(f): f for f in frames}.values()}
        whole = hashlib.sha256(b"".join(digests[id(frame)] for frame in frames)).hexdigest()
        return {"size": size, "frames": len(frames), "sha256": whole}


def _digest(photo: Image.Image) -> bytes:
    return hashlib.sha256(photo.tobytes()).digest()
