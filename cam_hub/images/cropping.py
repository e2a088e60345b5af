"""A photo resized, and cut or padded to a model's input; and where it then lies in it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from cam_hub.images.geometry import Placement
from cam_hub.images.resampling import resize_plainly

__all__ = ["Crop"]

# The resized image is built whole, as the references do, up to this many pixels or this many
# times the crop's area, whichever is more.
_WHOLE_PIXELS = 16_000_000
_WHOLE_CROPS = 4


@dataclass(frozen=True)
class Crop:
    """What a preprocessing does to a photo before it becomes numbers.

    Attributes:
        height: Of the input.
        width: Of the input.
        resize_size: As in ``Preprocessing``, and so are the others.
        crop_mode: How the photo's proportions are treated.
        interpolation: Filter of the resize.
        antialias: Whether it averages over all pixels that it shrinks.
        fill: The border's colour per channel, in the photo's own values.
    """

    height: int
    width: int
    resize_size: tuple[int, int]
    crop_mode: str
    interpolation: str
    antialias: bool
    fill: tuple[float, ...]

    def place(self, photo_size: tuple[int, int]) -> Placement:
        """Where a photo of ``(width, height)`` lies in the input."""
        width, height = photo_size
        resized_width, resized_height = self._resized(width, height)
        return Placement(
            photo_size=(width, height),
            input_size=(self.height, self.width),
            scale=(resized_width / width, resized_height / height),
            offset=(_centred(resized_width, self.width), _centred(resized_height, self.height)),
        )

    def __call__(self, photo: Image.Image) -> Image.Image:
        """Resizes a photo, mode "RGB", "L" or "F", and cuts or pads it to the input's size."""
        placement = self.place(photo.size)
        left, top = (int(start) for start in placement.offset)
        resized_width, resized_height = self._resized(*photo.size)
        # The part of the resized photo that the crop keeps, in its own coordinates.
        kept = (
            max(0, -left),
            max(0, -top),
            min(resized_width, self.width - left),
            min(resized_height, self.height - top),
        )
        filter_ = Image.Resampling[self.interpolation.upper()]
        area = self.width * self.height
        if resized_width * resized_height <= max(_WHOLE_PIXELS, _WHOLE_CROPS * area):
            if photo.size != (resized_width, resized_height):
                size = (resized_width, resized_height)
                if self.antialias:
                    photo = photo.resize(size, filter_)
                else:
                    photo = resize_plainly(photo, size, self.interpolation)
            part = photo.crop(kept)
        else:
            # Pillow's filters look beyond the box where they need to, so the smooth ones differ
            # from the crop of the whole only by rounding (and by their antialiasing).
            size = (kept[2] - kept[0], kept[3] - kept[1])
            part = photo.resize(size, filter_, box=placement.seen_box)
        if part.size == (self.width, self.height):
            return part
        fill = self.fill[0] if part.mode == "F" else self.fill
        canvas = Image.new(part.mode, (self.width, self.height), fill)
        canvas.paste(part, (max(0, left), max(0, top)))
        return canvas

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """``(width, height)`` of the whole photo after the resize, with the references' rounding.

        torchvision truncates the longer side; timm's keep-ratio resize rounds half to even. Both
        at least 1 here, where they would ask Pillow for an empty image.
        """
        goal_height, goal_width = self.resize_size
        if self.crop_mode == "squash":
            return goal_width, goal_height
        if self.crop_mode == "center" and goal_width == goal_height:
            # Integers throughout, so that this truncates like int(goal * long / short).
            if width <= height:
                return goal_width, max(1, int(goal_width * height / width))
            return max(1, int(goal_width * width / height)), goal_width
        ratios = height / goal_height, width / goal_width
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def _centred(resized: int, wanted: int) -> int:
    """Where a resized side starts in the input: negative when cropped, positive when padded."""
    # The references cut at round(), half to even, but pad at //.
    if resized < wanted:
        return (wanted - resized) // 2
    return -round((resized - wanted) / 2)
