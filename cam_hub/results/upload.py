"""``save_to_hub``: an explanation into a dataset repo on the Hub."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from cam_hub.errors import HubRefused, InvalidArgument
from cam_hub.results.explanation import Explanation
from cam_hub.results.hub_writer import Change, HubWriter, RepoState
from cam_hub.results.upload_card import put_into_card, section

__all__ = ["save_to_hub"]

_CARD = "README.md"
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


def save_to_hub(
    result: Explanation,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    path_in_repo: str | None = None,
) -> str:
    """Writes an explanation into a dataset repo on the Hub, by one commit.

    What is written is what ``Explanation.save`` writes, the photo included, in a folder of its own
    with a card that shows its pictures; the repo's own card lists the newest of them. Nothing in
    the repo is overwritten but that list, also not what was changed since in the folder of the same
    explanation; and nothing stays on this machine. Metadata of the
    photo's file (where it was taken, with which camera) is not part of an explanation, nor is the
    path of a folder that the model came from, only its last name.

    Args:
        result: The explanation.
        repo_id: ``owner/name`` of the dataset repo; made if there is none.
        token: Access token with the role "write"; None for that of the environment or the login.
        private: Whether only the owner may see the repo. None: private if it is made now,
            otherwise as it is.
        path_in_repo: The folder to write to, where nothing is yet. None: a folder in
            ``explanations/`` whose name follows from the content, so that saving the same again
            changes nothing.

    Returns:
        The folder's address.

    Raises:
        InvalidArgument: If ``repo_id`` or ``path_in_repo`` does not work.
        HubRefused: If there is no token, or it does not allow this; if the repo is public where
            ``private=True`` was asked for, or the other way round; if ``path_in_repo`` is taken.
        HubUnavailable: If the Hub does not answer as it should.
    """
    if path_in_repo is not None:
        _check_path(path_in_repo)
    writer = HubWriter(repo_id, "dataset", token)
    with tempfile.TemporaryDirectory(prefix="cam_hub-") as name:
        shared = _without_folder(result)
        files = {path.name: path for path in shared.save(Path(name) / "it").iterdir()}
        path = path_in_repo or f"explanations/{_name(result, files)}"
        _meet(writer, private)

        def plan(state: RepoState) -> Change:
            if path_in_repo is not None and any(
                other == path or other.startswith(f"{path}/") for other in state.files
            ):
                raise HubRefused(
                    repo_id, f"{path!r} is taken. Without path_in_repo a free one is found."
                )
            card = writer.read(_CARD, state.commit) if _CARD in state.files else None
            return _change(shared.manifest, path, files, card, state.files)

        writer.commit(plan)
    return f"{writer.url}/tree/main/{path}"


def _without_folder(result: Explanation) -> Explanation:
    """The same without the path of the folder that the model came from: it tells of a person."""
    model = result.manifest["model"]
    if model.get("source") != "local":
        return result
    named = f"local-dir:{PurePath(model['id'].removeprefix('local-dir:')).name}"
    return replace(result, described={**result.manifest, "model": {**model, "id": named}})


def _meet(writer: HubWriter, private: bool | None) -> None:
    """Sees to it that the repo is there, and as private as was asked for."""
    state = writer.state()
    if state is None:
        writer.create(private=private is not False)
    elif private is not None and private != state.private:
        seen = "private" if state.private else "public"
        raise HubRefused(
            writer.repo_id,
            f"it is {seen}, and private={private} was asked for. Take another name, or change it "
            "in the settings of the repo.",
        )


def _change(
    manifest: Mapping[str, Any],
    path: str,
    files: Mapping[str, Path],
    card: str | None,
    present: Collection[str],
) -> Change:
    written: dict[str, bytes | Path] = {f"{path}/{name}": file for name, file in files.items()}
    written[f"{path}/{_CARD}"] = section(manifest, "", files).encode()
    # The folder's name follows from the files. A file that is there is the same, or was changed
    # since and must not be lost.
    add = {name: content for name, content in written.items() if name not in present}
    if (new := put_into_card(card, section(manifest, path, files))) is not None and new != card:
        add[_CARD] = new.encode()
    return Change(f"Add {path}", add)


def _name(result: Explanation, files: Mapping[str, Path]) -> str:
    """A folder's name: what was explained, and a digest of all that is in it."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    index = result.classes[0]
    label, method = map(_words, (result.labels[index] or "", result.method))
    words = (label or f"class-{index}", method or "map", digest.hexdigest()[:12])
    return "-".join(words)


def _words(text: str) -> str:
    """A text of unknown origin as a part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def _check_path(path: object) -> None:
    parts = path.split("/") if isinstance(path, str) else [""]
    if len(parts) > 8 or not all(_PART.fullmatch(part) and ".." not in part for part in parts):
        raise InvalidArgument(
            "path_in_repo", path, "names of letters, digits, '.', '_' and '-' with '/' between them"
        )
