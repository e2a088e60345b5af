"""``python -m space.publish OWNER/NAME``: this repository as a Space on the Hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cam_hub.errors import CamHubError, HubRefused
from cam_hub.hub_writer import Change, HubWriter, RepoState
from space.card import TITLE, check_hardware, make_card
from space.staging import OWN_FOLDERS, collect, write

__all__ = ["main", "publish"]

_EXAMPLES = """\
examples:
  python -m space.publish me/cam-hub --dry-run        the files and the card; nobody is contacted
  python -m space.publish me/cam-hub                  a new Space is private
  python -m space.publish me/cam-hub --public         for everybody
  python -m space.publish --folder build/space        only the folder, which runs by itself

An access token with the role "write" is taken from HF_TOKEN or from 'hf auth login'.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Of the command line; None for the program's own.

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
            _say(f"{_extent(files)} in {options.folder}; there, 'python app.py' starts the app")
        elif options.dry_run:
            _say(_listing(files))
        else:
            where = publish(
                options.repo,
                files,
                token=options.token,
                private=options.private,
                hardware=options.hardware,
                pull_request=options.pr,
            )
            _say(f"{_extent(files)}: {where}")
    except CamHubError as error:
        sys.stderr.write(f"space.publish: error: {' '.join(str(error).split())}\n")
        return 2
    return 0


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

    Files of an earlier time are removed from our folders; what else is in the Space stays. A Space
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
    state = writer.state()
    if state is not None:
        _check_ours(repo_id, state)

    def plan(now: RepoState) -> Change:
        ours = tuple(f"{folder}/" for folder in OWN_FOLDERS)
        gone = sorted(name for name in now.files if name.startswith(ours) and name not in files)
        return Change("Publish cam_hub", files, gone)

    if pull_request:
        return writer.commit(plan, pull_request=True)
    if state is None:
        writer.create(private=private is not False, sdk="gradio")
    elif private and not state.private:
        writer.set_private(True)  # before anything new can be seen
    writer.commit(plan)
    if state is not None and private is False and state.private:
        writer.set_private(False)
    if hardware is not None:
        _request(writer, hardware)
    return writer.url


def _check_ours(repo_id: str, state: RepoState) -> None:
    others = state.files - {"README.md", ".gitattributes", ".gitignore"}
    if state.sdk not in (None, "gradio") or (others and "cam_hub/__init__.py" not in others):
        raise HubRefused(
            repo_id,
            "there is a Space of this name with another app in it. Take another name, or delete "
            "that Space first.",
        )


def _request(writer: HubWriter, hardware: str) -> None:
    try:
        writer.request_hardware(hardware)
    except HubRefused as error:
        raise HubRefused(
            writer.repo_id,
            f"the app was published at {writer.url}, but its hardware stays as it was: "
            f"{error.reason}",
        ) from error


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
        "--public", action="store_const", const=False, dest="private", help="everybody sees it"
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


def _listing(files: Mapping[str, bytes]) -> str:
    rows = [f"{len(content):>9,}  {name}" for name, content in files.items()]
    return "\n".join([*rows, _extent(files), "", files["README.md"].decode().rstrip()])


def _extent(files: Mapping[str, bytes]) -> str:
    return f"{len(files)} files, {sum(map(len, files.values())):,} bytes"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
