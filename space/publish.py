"""``python -m space.publish OWNER/NAME``: this repository as a Space on the Hub."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    SpaceCardData,
    SpaceHardware,
)

from cam_hub.errors import CamHubError, HubRefused, InvalidArgument
from cam_hub.results.upload import HubWriter, Operation, RepoInfo, files_of

__all__ = [
    "MODELS",
    "OAUTH_SCOPES",
    "ROOT",
    "check_hardware",
    "collect",
    "main",
    "make_card",
    "publish",
    "write",
]


TITLE = "cam_hub: which pixels support which class"

PYTHON = "3.12"
"""Every kind of hardware of the Hub offers it, and all dependencies run on it."""

OAUTH_SCOPES = ("read-repos", "gated-repos")
"""What people who sign in allow: to read their private models, and the gated ones that they may."""

MODELS = (
    "timm/tf_efficientnet_lite0.in1k",
    "timm/resnet50.a1_in1k",
    "timm/convnext_tiny.in12k_ft_in1k",
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "timm/swin_tiny_patch4_window7_224.ms_in1k",
    "timm/mobilenetv3_large_100.ra_in1k",
)
"""The models on the Hub that the page offers, so that their pages link to the Space."""

_SHORT = "Class activation maps of any timm or torchvision model"

_TEXT = """
# {title}

Give a model's ID and a photo: the page shows what the model saw, which pixels support it, and
which of its layers a map can be made from. Any timm model on the Hub works, your own fine-tuned
ones too, and torchvision's.

Programs ask the same over the API:

```python
from gradio_client import Client, handle_file

client = Client("{space_id}")
overlay, *rest = client.predict(handle_file("cat.jpg"), api_name="/explain")
```

The folder runs anywhere: `pip install -r requirements.txt`, then `python app.py`.
"""


ROOT = Path(__file__).resolve().parent.parent
"""The folder that this code was started from."""

OWN_FOLDERS = ("cam_hub", "space")
"""The folders of a Space that hold nothing but what comes from here."""

_NEEDED = (
    "app.py",
    "requirements.txt",
    "LICENSE",
    *(f"{each}/__init__.py" for each in OWN_FOLDERS),
)

_FILES = (
    *_NEEDED,
    *(f"{folder}/**/*{suffix}" for folder in OWN_FOLDERS for suffix in (".py", ".typed")),
    *(f"space/examples/**/*{suffix}" for suffix in (".jpg", ".png", ".md")),
)
"""What a Space needs of this repository, as patterns."""


def make_card(
    space_id: str = "OWNER/NAME", *, title: str = TITLE, hardware: str | None = None
) -> str:
    """The Space's ``README.md``.

    Args:
        space_id: How programs call it.
        title: Shown above the Space and in lists.
        hardware: What those who copy the Space are advised to take; None for the free one.

    Raises:
        InvalidArgument: If the Hub would not take one of them, or has no such Gradio as is
            installed here.
    """
    if not title.strip() or not title.isprintable() or len(title) > 100:
        raise InvalidArgument("title", title, "1 to 100 characters on one line")
    gradio = version("gradio")
    if not re.fullmatch(r"\d+(\.\d+){1,2}", gradio):
        raise InvalidArgument("gradio", gradio, "an installed release of gradio, like 6.31.0")
    data = SpaceCardData(
        title=title.strip(),
        emoji="🔥",
        colorFrom="indigo",
        colorTo="red",
        sdk="gradio",
        sdk_version=gradio,
        python_version=PYTHON,
        app_file="app.py",
        short_description=_SHORT,
        license="apache-2.0",
        suggested_hardware=check_hardware(hardware or SpaceHardware.CPU_BASIC.value),
        hf_oauth=True,
        hf_oauth_scopes=list(OAUTH_SCOPES),
        models=list(MODELS),
        tags=["class-activation-map", "explainability", "grad-cam", "timm", "torchvision"],
        pinned=False,
    )
    return f"---\n{data.to_yaml()}\n---\n{_TEXT.format(title=data.title, space_id=space_id)}"


def check_hardware(name: str) -> str:
    """The name of hardware that the app runs on, as it was given.

    Raises:
        InvalidArgument: If the Hub has no such hardware.
    """
    known = [item.value for item in SpaceHardware]
    if name not in known:
        raise InvalidArgument("hardware", name, f"one of {', '.join(known)}")
    return name


def collect(card: str, root: Path = ROOT) -> dict[str, bytes]:
    """The files of the Space.

    Code, examples, requirements, licence and the card; no tests, no caches, nothing hidden, and no
    link, since that could lead out of the repository.

    Args:
        card: Its ``README.md``.
        root: A clone of this repository, or a Space that was made from one.

    Returns:
        Content by path, sorted by path.

    Raises:
        InvalidArgument: If something that the Space needs is not in ``root``.
    """
    found = {"README.md": card.encode()}
    for pattern in _FILES:
        for path in root.glob(pattern):
            parts = path.relative_to(root).parts
            if path.is_file() and not path.is_symlink() and not any(p[0] == "." for p in parts):
                found["/".join(parts)] = path.read_bytes()
    for name in _NEEDED:
        if name not in found:
            missing = name.removesuffix("/__init__.py")
            expected = f"a clone of the repository; {missing!r} is missing"
            raise InvalidArgument("root", str(root), expected)
    return dict(sorted(found.items()))


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes the files into a folder that is not there yet, or empty; all of them or none.

    Raises:
        InvalidArgument: If something is there, or it cannot be written to.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidArgument("folder", str(folder), "a new folder or an empty one")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            staging = Path(name) / "files"
            for path, content in files.items():
                target = staging / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            if folder.exists():
                folder.rmdir()
            staging.rename(folder)
    except OSError as error:
        expected = f"a folder that can be written to ({error.strerror})"
        raise InvalidArgument("folder", str(folder), expected) from error


_MESSAGE = "Publish cam_hub"


def publish(
    repo_id: str,
    files: Mapping[str, bytes],
    *,
    token: str | None = None,
    private: bool | None = None,
    hardware: str | None = None,
    pull_request: bool = False,
) -> str:
    """Makes a Space of the files, or brings it up to date, by one commit.

    Files of an earlier time are removed from our folders; other files of the Space stay. A Space
    that holds another app is not touched.

    Args:
        repo_id: ``owner/name``.
        files: Content by path.
        token: Access token; None for that of the environment or the login.
        private: Whether only the owner sees it. None: private if it is made now, otherwise as it
            is.
        hardware: What it is to run on; None for what it runs on, or the free one.
        pull_request: Only propose the commit, to a Space that exists.

    Returns:
        Where people find the Space, or the pull request.

    Raises:
        InvalidArgument: If ``repo_id`` does not work.
        HubRefused: If the token does not allow it, the account would have to pay, or the Space
            holds another app.
        HubUnavailable: If the Hub does not answer.
    """
    writer = HubWriter(repo_id, "space", token)
    space = writer.info()
    if space is not None:
        others = files_of(space) - {"README.md", ".gitattributes", ".gitignore"}
        if getattr(space, "sdk", None) not in (None, "gradio") or (
            others and "cam_hub/__init__.py" not in others
        ):
            raise HubRefused(
                repo_id,
                "there is a Space of this name with another app in it. Take another name, or "
                "delete that Space first.",
            )

    def plan(now: RepoInfo) -> list[Operation]:
        ours = tuple(f"{folder}/" for folder in OWN_FOLDERS)
        stale = sorted(name for name in files_of(now) - files.keys() if name.startswith(ours))
        return [
            *map(CommitOperationDelete, stale),
            *(CommitOperationAdd(path, content) for path, content in files.items()),
        ]

    if pull_request:
        return writer.commit(_MESSAGE, plan, pull_request=True)
    if space is None:
        writer.create(private=private is not False, sdk="gradio")
    elif private and not space.private:
        _set_private(writer, True)  # before anything new can be seen
    writer.commit(_MESSAGE, plan)
    if space is not None and private is False and space.private:
        _set_private(writer, False)
    try:
        if hardware is not None:
            with writer.api() as api:
                api.request_space_hardware(repo_id, SpaceHardware(hardware))
    except HubRefused as error:
        raise HubRefused(
            repo_id,
            f"the app was published at {writer.url}, but its hardware stays as it was: "
            f"{error.reason}",
        ) from error
    return writer.url


def _set_private(writer: HubWriter, private: bool) -> None:
    with writer.api() as api:
        api.update_repo_settings(writer.repo_id, repo_type="space", private=private)


_EXAMPLES = """\
examples:
  python -m space.publish me/cam-hub --dry-run        the files and the card; nothing is sent
  python -m space.publish me/cam-hub                  a new Space is private
  python -m space.publish me/cam-hub --public         visible to all
  python -m space.publish --folder build/space        only the folder, which runs on its own

An access token with the role "write" is taken from HF_TOKEN or from 'hf auth login'.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m space.publish",
        description="Creates or updates a Hugging Face Space that runs this app.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("repo", nargs="?", metavar="OWNER/NAME", help="the Space")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument(
        "--private",
        action="store_const",
        const=True,
        dest="private",
        help="only its owner sees it (default for a new one)",
    )
    seen.add_argument(
        "--public", action="store_const", const=False, dest="private", help="visible to all"
    )
    parser.add_argument("--title", default=TITLE, help="above the Space (default: %(default)s)")
    parser.add_argument(
        "--hardware",
        metavar="NAME",
        help="ask for this hardware, like cpu-upgrade or t4-small; most of it is paid for",
    )
    parser.add_argument("--pr", action="store_true", help="only open a pull request")
    parser.add_argument("--token", help="access token; better kept in HF_TOKEN")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="write the files there, and stop"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the files and the card, and stop"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Arguments of the command line; None for the program's own.

    Returns:
        Exit code: 0 if all went well, 2 if not, with the reason on the error output.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    local = options.dry_run or options.folder is not None
    if options.repo is None and not local:
        parser.error("the Space's name is missing: OWNER/NAME")
    if options.pr and (options.private is not None or options.hardware):
        parser.error("a pull request changes neither who sees the Space nor its hardware")
    try:
        if options.hardware:
            check_hardware(options.hardware)
        named = (options.repo,) if options.repo else ()
        files = collect(make_card(*named, title=options.title, hardware=options.hardware))
        if options.folder is not None and not options.dry_run:
            write(files, options.folder)
            text = f"{_extent(files)} in {options.folder}; there, 'python app.py' starts the app"
        elif options.dry_run:
            text = _listing(files)
        else:
            where = publish(
                options.repo,
                files,
                token=options.token,
                private=options.private,
                hardware=options.hardware,
                pull_request=options.pr,
            )
            text = f"{_extent(files)}: {where}"
        sys.stdout.write(f"{text}\n")
    except CamHubError as error:
        sys.stderr.write(f"space.publish: error: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _listing(files: Mapping[str, bytes]) -> str:
    rows = [f"{len(content):>9,}  {name}" for name, content in files.items()]
    return "\n".join([*rows, _extent(files), "", files["README.md"].decode().rstrip()])


def _extent(files: Mapping[str, bytes]) -> str:
    return f"{len(files)} files, {sum(map(len, files.values())):,} bytes"


if __name__ == "__main__":
    sys.exit(main())
