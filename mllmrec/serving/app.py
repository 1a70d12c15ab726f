"""The HTTP application: endpoints, and what each status means."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPBearer
from starlette.responses import Response

from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import FinishedBaseline, FinishedRun
from mllmrec.jobs.recommendation import Ranked
from mllmrec.serving.batches import Batches, StoppingError
from mllmrec.serving.guard import Local
from mllmrec.serving.metrics import Metrics
from mllmrec.serving.middleware import NO_ANSWER, Bounded, Counted, Guarded
from mllmrec.serving.problems import HANDLERS, defect, problem
from mllmrec.serving.rankings import Question, Rankings
from mllmrec.serving.schemas import Explanation, Health, Problem, RankedItem, Ranking, RankRequest
from mllmrec.serving.settings import TOKEN, Batching, Limits
from mllmrec.serving.stopping import closed_by_signals

log = logging.getLogger(__name__)

OPEN_PATHS = ("/health", "/docs", "/openapi.json")
ENDPOINTS = ("/rank", "/explain", "/metrics", *OPEN_PATHS)
_ABOUT = """Rankings of a finished run of mllmrec.

Requests that arrive together are ranked in one batch. A refused request gets one sentence in `detail`."""
_ADVICE = f"ask at this name or at 127.0.0.1; with a token in {TOKEN} it answers at every name"
_STATUSES = {
    401: "The token is missing or wrong.",
    403: "Another site asked, or asked under a name that is not localhost.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "The request is wrong; the sentence names what.",
    429: "Too many requests wait; Retry-After says in how many seconds to try again.",
    503: "The service is stopping.",
    504: "The ranking took too long.",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": says} for status, says in _STATUSES.items()
}


def make_app(
    run: FinishedRun | FinishedBaseline,
    limits: Limits,
    batching: Batching,
    *,
    shortlist: int | None = None,
    token: str | None = None,
    local: bool = False,
) -> FastAPI:
    """The application that ranks with a run; its thread starts and ends with it. ``app.state.batches`` are its batches.

    Args:
        run: a finished run.
        limits: of requests.
        batching: how requests wait and which are ranked together.
        shortlist: see `Rankings`.
        token: what clients have to send; None: nothing.
        local: whether no page of another site may ask; see `Local`.
    """
    metrics = Metrics()
    rankings = Rankings(
        run,
        shortlist=shortlist,
        longest=max(limits.max_k, limits.max_candidates),
        kept=batching.kept,
        looked_up=metrics.looked_up,
    )

    def observe(size: int, seconds: float) -> None:
        metrics.batch(size, seconds)
        metrics.waiting.set(batches.waiting)

    batches: Batches[Question, Ranked] = Batches(rankings.rank, batching, observe)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batches.start()
        with closed_by_signals(batches, limits.timeout_seconds):
            yield
        await asyncio.to_thread(batches.stop, limits.timeout_seconds)

    app = FastAPI(
        title="mllmrec",
        description=_ABOUT,
        version="1",
        lifespan=lifespan,
        redoc_url=None,
        exception_handlers=HANDLERS,
    )
    app.state.batches = batches
    # The last one added is the outermost.
    app.add_middleware(Bounded, size=limits.max_body_kb * 1024, seconds=limits.timeout_seconds)
    app.add_middleware(Guarded, token=token, open_paths=OPEN_PATHS)
    if local:
        app.add_middleware(Local, pages=("/docs",), advice=_ADVICE)
    app.add_middleware(Counted, metrics=metrics, endpoints=ENDPOINTS)
    # Guarded checks the token; this tells the OpenAPI page of it.
    secured = [] if token is None else [Depends(HTTPBearer(auto_error=False))]

    async def ranked(request: Request, asked: RankRequest) -> Ranked | Response:
        if batches.closing:
            raise StoppingError
        _check_sizes(asked, limits)
        question = rankings.question(asked.history, asked.candidates)
        found = rankings.kept_result(question)
        if found is not None:
            return found
        answer = batches.submit(question)
        metrics.waiting.set(batches.waiting)
        return await _answered(request, answer, limits.timeout_seconds)

    def items(found: Ranked, k: int) -> list[RankedItem]:
        builder = run.prepared.builder
        pairs: Sequence[tuple[int, float]] = list(
            zip(found.items[:k].tolist(), found.scores[:k].tolist(), strict=True)
        )
        return [
            RankedItem(
                item=builder.ids[item],
                title=builder.titles[item],
                score=score if math.isfinite(score) else None,
            )
            for item, score in pairs
        ]

    @app.post("/rank", dependencies=secured, response_model=Ranking, responses=_REFUSALS)
    async def rank(asked: RankRequest, request: Request) -> Any:
        """Rank the candidates, or the whole catalogue, behind a history."""
        found = await ranked(request, asked)
        return Ranking(ranking=items(found, asked.k)) if isinstance(found, Ranked) else found

    silent: dict[int | str, dict[str, Any]] = {
        409: {"model": Problem, "description": "The run ranks without writing reasoning."}
    }

    @app.post("/explain", dependencies=secured, response_model=Explanation, responses={**_REFUSALS, **silent})
    async def explain(asked: RankRequest, request: Request) -> Any:
        """Rank, and show what the policy writes before it ranks."""
        if not run.reasons:
            return problem(
                409,
                f"this run ranks without writing reasoning (method={run.cfg.method.name}, eval.ranking="
                f"{run.cfg.eval.ranking}): serve one of task=reasoned or task=profiled",
            )
        found = await ranked(request, asked)
        if not isinstance(found, Ranked):
            return found
        return Explanation(ranking=items(found, asked.k), reasoning=list(found.reasoning))

    @app.get("/health", response_model=Health, responses={503: {"model": Health, "description": "Stopping."}})
    async def health(response: Response) -> Health:
        """Say what is served, and whether new requests are taken."""
        works = batches.alive and not batches.closing
        response.status_code = 200 if works else 503
        return Health(
            status="ok" if works else "stopping",
            method=str(run.cfg.method.name),
            stage=run.stage,
            items=len(run.prepared.items),
            reasons=run.reasons,
        )

    @app.get("/metrics", dependencies=secured, response_class=Response)
    async def numbers() -> Response:
        """The service's numbers in Prometheus's text format."""
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def _answered(request: Request, answer: Future[Ranked], seconds: float) -> Ranked | Response:
    """The answer, or a response that says that it took too long or that nobody waits for it any more."""
    waiting = asyncio.wrap_future(answer)
    gone = asyncio.create_task(_gone(request))
    try:
        either: set[asyncio.Future[Any]] = {waiting, gone}
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            error = waiting.exception()
            # The thread has logged a defect.
            return waiting.result() if error is None or isinstance(error, UserError) else defect()
        if gone.done():
            return Response(status_code=NO_ANSWER)
        return problem(
            504, f"the ranking took longer than {seconds:g} s; ask for fewer candidates, or try again"
        )
    finally:
        waiting.cancel()  # if it still waits, it is never worked on
        gone.cancel()


async def _gone(request: Request) -> None:
    """Wait until the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_sizes(asked: RankRequest, limits: Limits) -> None:
    """Refuse what is longer than allowed.

    Raises:
        UserError: a list has too many items, or ``k`` is too large.
    """
    sizes = {
        "history": (len(asked.history), limits.max_history),
        "candidates": (len(asked.candidates or ()), limits.max_candidates),
    }
    for name, (size, most) in sizes.items():
        if size > most:
            raise UserError(f"{name} has {size:,} items: this service takes up to {most:,}")
    if asked.k > limits.max_k:
        raise UserError(f"k={asked.k}: this service gives up to {limits.max_k:,} items")
