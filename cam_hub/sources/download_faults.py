"""What to tell of a download that failed: what happened, and what would help."""

from __future__ import annotations

import errno
import socket
import ssl
from http import HTTPStatus
from urllib.error import HTTPError, URLError

__all__ = ["ADVICE", "cut_short", "disk_trouble", "http_trouble", "no_connection"]

ADVICE = (
    "A checkpoint that lies in torch's hub folder ($TORCH_HOME/hub/checkpoints) is used without "
    "a network, and CAM_HUB_TORCHVISION_URL names a mirror."
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def http_trouble(error: HTTPError) -> str:
    """Of an answer with a status that is no success."""
    status = error.code
    try:
        shown = f"error {status} ({HTTPStatus(status).phrase})"
    except ValueError:
        shown = f"error {status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        wait = (error.headers.get("Retry-After") or "").strip()
        when = f"in {wait} seconds" if wait.isdecimal() else "in a few minutes"
        return f"its server has had too many requests from here ({shown}). Try again {when}."
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return f"its server does not have the file ({shown}). {ADVICE}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"its server does not hand out the file ({shown}). {ADVICE}"
    if 300 <= status < 400:
        return f"its server redirects in circles ({shown}). {ADVICE}"
    if status >= 500:
        return f"its server is in trouble ({shown}). Try again later. {ADVICE}"
    return f"its server answered with {shown}. {ADVICE}"


def no_connection(error: Exception) -> str | None:
    """Of a server that was not reached; None if it was, and the connection broke off."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"its server did not answer in time. Try again later. {ADVICE}"
    if isinstance(cause, socket.gaierror):
        return f"the name of its server is not known (DNS). Is there a network? {ADVICE}"
    if isinstance(cause, ssl.SSLError):
        return f"the certificate of its server is not accepted. {ADVICE}"
    if isinstance(cause, ConnectionRefusedError):
        return f"its server refused the connection. Is there a network? {ADVICE}"
    if isinstance(error, URLError) and not isinstance(cause, ConnectionError):
        return f"its server cannot be reached. Is there a network? {ADVICE}"
    return None


def cut_short(arrived: int, size: int) -> str:
    """Of a connection that breaks off again and again."""
    return (
        f"the connection broke off, again and again: {arrived:,} of about {size:,} bytes have "
        "arrived. They are kept, and the next try goes on from there."
    )


def disk_trouble(error: OSError) -> str:
    """Of a disk that is full, or not ours to write to."""
    if error.errno in _FULL:
        return (
            "the disk is full, or a limit on file sizes is reached. Make room in torch's hub "
            "folder, or have it elsewhere (TORCH_HOME)."
        )
    if error.errno in _FORBIDDEN:
        return "torch's hub folder cannot be written. Have it in a folder of your own (TORCH_HOME)."
    why = error.strerror or type(error).__name__
    return f"the disk of torch's hub folder failed ({why})."
