"""What plain HTTP gets where a request fails before it reaches an endpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.exceptions import RequestValidationError
from gradio.route_utils import FnIndexInferError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from cam_hub.errors import InvalidArgument, TooMuch
from space.problems import INTERNAL, INTERNAL_CODE

__all__ = ["BUSY", "FORBIDDEN", "NOT_FOUND", "handlers"]

_LOG = logging.getLogger(__name__)
_NAMED = re.compile(r"/gradio_api/call/v2/([^/]*)/?\Z")
"""The route that takes values by their names."""

BUSY = "busy"
FORBIDDEN = "forbidden"
NOT_FOUND = "not_found"
_CODES = {401: FORBIDDEN, 403: FORBIDDEN, 404: NOT_FOUND, 405: NOT_FOUND, 413: TooMuch.code}
_CODES |= {400: InvalidArgument.code, 422: InvalidArgument.code, 503: BUSY}

Handler = Callable[[Request, Any], Awaitable[JSONResponse]]


def handlers() -> dict[Any, Handler]:
    """By kind of error, for the app that Gradio makes."""
    return {
        RequestValidationError: _malformed,
        HTTPException: _refused,
        FnIndexInferError: _no_endpoint,
        KeyError: _no_endpoint,
        TypeError: _wrong_values,
        Exception: _unforeseen,
    }


async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    """A body that is no JSON of the kind that the route takes."""
    del request
    told = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3]]
    return _answer(422, InvalidArgument.code, f"The request cannot be read. {'; '.join(told)}.", [])


async def _refused(request: Request, error: HTTPException) -> JSONResponse:
    """What Gradio refuses; its clients read ``detail``."""
    del request
    code = _CODES.get(error.status_code, INTERNAL_CODE)
    words = str(error.detail) if isinstance(error.detail, str) else "The request was refused."
    return _answer(error.status_code, code, words, error.detail, error.headers)


async def _no_endpoint(request: Request, error: Exception) -> JSONResponse:
    if "/gradio_api/" not in request.url.path:
        return await _noted(error)
    return _answer(404, NOT_FOUND, "There is no such endpoint.")


async def _wrong_values(request: Request, error: Exception) -> JSONResponse:
    """Values that are missing, or that the endpoint does not have: Gradio names them."""
    if not _NAMED.search(request.url.path):
        return await _noted(error)
    said = str(error).partition(". ")[0].replace("key-word argument", "value of this endpoint")
    return _answer(422, InvalidArgument.code, f"{said}.")


async def _noted(error: Exception) -> JSONResponse:
    _LOG.error("unforeseen error in a route of Gradio's", exc_info=error)
    return _answer(500, INTERNAL_CODE, INTERNAL)


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    """Any other error; the server goes on to log it."""
    del request
    del error
    return _answer(500, INTERNAL_CODE, INTERNAL)


def _answer(
    status: int, code: str, words: str, detail: Any = None, headers: Any = None
) -> JSONResponse:
    body = {"error": f"{words} [{code}]", "title": code, "detail": words}
    if detail is not None:
        body["detail"] = detail
    return JSONResponse(body, status, headers)
