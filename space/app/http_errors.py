"""What plain HTTP gets where a request fails before it reaches an endpoint."""

from __future__ import annotations

import errno
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.exceptions import RequestValidationError
from gradio.route_utils import FnIndexInferError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from cam_hub.errors import DiskUnavailable, InvalidArgument, TooMuch
from space.service.errors import INTERNAL, INTERNAL_CODE

__all__ = ["BUSY", "FORBIDDEN", "NOT_FOUND", "describe", "handlers", "status_of"]

_NAMED = re.compile(r"/gradio_api/call/v2/([^/]*)/?\Z")
"""The route that takes values by their names."""

_MISREAD: tuple[type[Exception], ...] = (ArithmeticError, AssertionError, AttributeError)
_MISREAD += (LookupError, RecursionError, TypeError, ValueError)
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)

BUSY = "busy"
FORBIDDEN = "forbidden"
NOT_FOUND = "not_found"
_CODES = {401: FORBIDDEN, 403: FORBIDDEN, 404: NOT_FOUND, 405: NOT_FOUND, 413: TooMuch.code}
_CODES |= dict.fromkeys((400, 408, 411, 415, 416, 422), InvalidArgument.code)
_CODES |= {429: BUSY, 503: BUSY}

Handler = Callable[[Request, Any], Awaitable[JSONResponse]]


def handlers() -> dict[Any, Handler]:
    """By kind of error, for the app that Gradio makes."""
    return {
        RequestValidationError: _malformed,
        HTTPException: _refused,
        FnIndexInferError: _no_endpoint,
        KeyError: _no_endpoint,
        TypeError: _wrong_values,
    }


def describe(status: int, detail: object) -> tuple[str, str]:
    """The code and the words for a refusal.

    Args:
        status: Of HTTP.
        detail: What was raised along with it.
    """
    words = str(detail) if isinstance(detail, str) else "The request was refused."
    return _CODES.get(status, INTERNAL_CODE), words


def status_of(error: Exception) -> tuple[int, str, str]:
    """The status, the code and the words for an error that a route raised.

    Gradio's routes check little of what they are sent: a value of the wrong kind fails in the
    middle of them, with one of Python's own errors.
    """
    if (disk := DiskUnavailable.of(error)) is not None:
        return 507, disk.code, disk.message
    if isinstance(error, _MISREAD):
        return 400, InvalidArgument.code, "The request cannot be read."
    if isinstance(error, OSError) and error.errno in _NO_FILE:
        return 404, NOT_FOUND, "There is no such file."
    return 500, INTERNAL_CODE, INTERNAL


async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    """A body that is no JSON of the kind that the route takes."""
    del request
    told = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3]]
    return _answer(422, InvalidArgument.code, f"The request cannot be read. {'; '.join(told)}.", [])


async def _refused(request: Request, error: HTTPException) -> JSONResponse:
    """What Gradio refuses; its clients read ``detail``."""
    del request
    code, words = describe(error.status_code, error.detail)
    return _answer(error.status_code, code, words, error.detail, error.headers)


async def _no_endpoint(request: Request, error: Exception) -> JSONResponse:
    if "/gradio_api/" not in request.url.path:
        raise error
    return _answer(404, NOT_FOUND, "There is no such endpoint.")


async def _wrong_values(request: Request, error: Exception) -> JSONResponse:
    """Values that are missing, or that the endpoint does not have: Gradio names them."""
    if not _NAMED.search(request.url.path):
        raise error
    said = str(error).partition(". ")[0].replace("key-word argument", "value of this endpoint")
    return _answer(422, InvalidArgument.code, f"{said}.")


def _answer(
    status: int, code: str, words: str, detail: Any = None, headers: Any = None
) -> JSONResponse:
    body = {"error": f"{words} [{code}]", "title": code, "detail": words}
    if detail is not None:
        body["detail"] = detail
    return JSONResponse(body, status, headers)
