"""The photo of a request: an uploaded file, or one that lies at a URL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL import Image

from cam_hub.errors import ImageRefused
from cam_hub.images.decoding import open_image
from space.config.settings import PhotoRules
from space.service.photo_urls import check_url, fetch_photo, is_url, url_name

__all__ = ["Photo", "read_photo"]


@dataclass(frozen=True)
class Photo:
    """A photo that was sent or named, not yet opened.

    Attributes:
        name: Its file's name on the visitor's machine, or at its URL.
        path: The uploaded file, as it was sent; None for one at a URL.
        url: Where it lies; None for an uploaded one.
    """

    name: str
    path: Path | None = None
    url: str | None = None

    def open(
        self, rules: PhotoRules, max_pixels: int, tell: Callable[[int], None] = lambda arrived: None
    ) -> Image.Image:
        """Fetches it if need be, and opens it.

        Args:
            rules: What may be fetched.
            max_pixels: More are refused before they are decoded.
            tell: Called with the bytes that have arrived; what it raises ends the work.

        Returns:
            As ``cam_hub.images.decoding.open_image``.

        Raises:
            ImageRefused: If it cannot be fetched or opened.
        """
        # Bytes, not a path: messages should not name folders of this machine.
        if self.url is not None:
            return open_image(fetch_photo(self.url, rules, tell), max_pixels=max_pixels)
        try:
            content = self.path.read_bytes() if self.path is not None else b""
        except FileNotFoundError:  # it was kept for its time
            raise ImageRefused(
                "it is no longer among the uploaded files; upload it again"
            ) from None
        return open_image(content, max_pixels=max_pixels)


def read_photo(image: object, rules: PhotoRules) -> Photo:
    """Checks what was sent for a photo, without fetching or opening anything.

    Args:
        image: A URL as a text, or Gradio's description of a file: a mapping with ``path`` (an
            uploaded file, or a URL) and perhaps ``orig_name``.
        rules: What may be fetched.

    Raises:
        ImageRefused: If it is neither an uploaded file nor a URL that may be fetched.
    """
    path = image.get("path") if isinstance(image, Mapping) else image
    if image is None or path == "":
        raise ImageRefused("there is none; upload, paste or take a photo first, or give its URL")
    if not isinstance(path, str):
        raise ImageRefused(
            "it did not arrive as an uploaded file or a URL (gradio_client: handle_file(path))"
        )
    if is_url(path.strip()):
        url = str(check_url(path, rules))
        return Photo(url_name(url), url=url)
    if not isinstance(image, Mapping):
        raise ImageRefused(
            "a text must be a URL that begins with http:// or https://; a file is uploaded first "
            "(gradio_client: handle_file(path))"
        )
    return _uploaded(path, image.get("orig_name"))


def _uploaded(path: str, name: object) -> Photo:
    """The file that was uploaded, and its name.

    Gradio checks paths only in mappings that claim to be files, so it is checked here again that
    nobody names a file of this machine.
    """
    try:
        found = Path(path).resolve()
        here = found.is_relative_to(Path(get_upload_folder()).resolve()) and found.is_file()
    except (OSError, ValueError):  # a name with a NUL, or too long
        here = False
    if not here:
        raise ImageRefused("it is not, or no longer, among the uploaded files; upload it again")
    return Photo(Path(name).name if isinstance(name, str) and name else found.name, path=found)
