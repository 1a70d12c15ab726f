"""Answers to requests that are refused: a status and one sentence."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from mllmrec.errors import UserError
from mllmrec.serving.batches import QueueFullError, StoppingError


def problem(status: int, sentence: str, longest: int = 500) -> JSONResponse:
    """An answer that says in one sentence why there is no other."""
    words = " ".join(sentence.split())
    words = words if len(words) <= longest else f"{words[:longest]} …"
    # Half of a surrogate pair is a string in JSON, but cannot be sent.
    return JSONResponse({"detail": words.encode("utf-8", "replace").decode("utf-8")}, status)


def defect() -> JSONResponse:
    """The answer where this package is at fault."""
    return problem(500, "the service failed at this request; its log says how")


async def _wrong_request(request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    place = [part for part in first["loc"][1:] if not str(part).startswith(("function-", "list["))]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if first["type"] == "json_invalid":
        where, says = "the body", "it is no JSON"
    elif first["type"] == "extra_forbidden":
        says = "there is no such field; there are history, candidates and k"
    else:
        says = str(first["msg"]).removeprefix("Value error, ")
    given = first.get("input")
    shown = (
        f"={given!r}" if where and isinstance(given, (str, int, float, bool)) and where != "the body" else ""
    )
    return problem(422, f"{where or 'the body'}{shown}: {says}")


async def _http_problem(request: Request, error: Any) -> JSONResponse:
    if error.status_code == 400:  # FastAPI's for a body that it cannot read
        return problem(422, "the body: it is no JSON in UTF-8, or holds brackets or digits without end")
    answer = problem(error.status_code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _user_error(request: Request, error: Any) -> JSONResponse:
    return problem(422, str(error))


async def _queue_full(request: Request, error: Any) -> JSONResponse:
    answer = problem(429, str(error))
    answer.headers["Retry-After"] = str(error.seconds)
    return answer


async def _stopping(request: Request, error: Any) -> JSONResponse:
    return problem(503, str(error))


async def _defect(request: Request, error: Any) -> JSONResponse:
    return defect()


# Which answer an exception becomes.
HANDLERS: dict[int | type[Exception], Any] = {
    RequestValidationError: _wrong_request,
    HTTPException: _http_problem,
    UserError: _user_error,
    QueueFullError: _queue_full,
    StoppingError: _stopping,
    Exception: _defect,
}
