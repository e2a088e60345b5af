"""What is known about a model before any of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["FileFacts", "ModelFacts"]


@dataclass(frozen=True)
class FileFacts:
    """One file of a repo.

    Attributes:
        name: Its path inside the repo.
        size: Its bytes, or None if the Hub does not say.
        digest: What its content must add up to: 64 hexadecimal digits are its SHA-256, 40 the
            SHA-1 that git gives it. None if the Hub does not say.
    """

    name: str
    size: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """A model, described without loading it. What nobody says is None.

    Attributes:
        id: Its ID.
        source: Which source it would come from (``"hub"``, ``"torchvision"``, ``"embedded"``,
            ``"timm"``).
        revision: What exactly would be loaded: a commit, or the name of the weights.
        parameters: How many numbers its weights are.
        weights_file: The file that would be read.
        weights_bytes: Bytes of that file.
        fetch_bytes: Bytes that ``load_model`` would have to fetch; files that are already on this
            machine do not count.
        licence: As its authors name it, for example ``"apache-2.0"``.
        gated: Whether its terms must be accepted first.
        private: Whether only some accounts see it.
        disabled: Whether the Hub has taken it out of service.
        library: The library that its authors made it with.
        tags: Its tags on the Hub.
        downloads: Downloads of the last 30 days.
        input_size: Channels, rows and columns of its input, where they can be told without
            loading it.
        class_names: One label per class, where they can be told without loading it.
        refusal: Why ``load_model`` with the same limits and token would refuse it, as far as that
            can be told; None if nothing is known to speak against it.
        files: Everything in its repo.
        fresh: False when the Hub could not be asked and this is what the local cache tells.
    """

    id: str
    source: str
    revision: str | None = None
    parameters: int | None = None
    weights_file: str | None = None
    weights_bytes: int | None = None
    fetch_bytes: int | None = None
    licence: str | None = None
    gated: bool = False
    private: bool = False
    disabled: bool = False
    library: str | None = None
    tags: tuple[str, ...] = ()
    downloads: int | None = None
    input_size: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    refusal: str | None = None
    files: tuple[FileFacts, ...] = field(default=(), repr=False)
    fresh: bool = True

    @property
    def restricted(self) -> bool:
        """Whether not everybody may have it."""
        return self.gated or self.private

    def file(self, name: str) -> FileFacts | None:
        """The file of this name, if the repo has it."""
        return next((file for file in self.files if file.name == name), None)
