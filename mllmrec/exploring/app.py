"""The pages and what they ask for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, Response

from mllmrec.errors import UserError
from mllmrec.exploring import views
from mllmrec.exploring.headers import Headed
from mllmrec.exploring.pictures import thumbnail
from mllmrec.exploring.stored import Wanted
from mllmrec.exploring.views import Explored
from mllmrec.jobs.recommendation import item_codes
from mllmrec.serving.guard import Local
from mllmrec.serving.middleware import Bounded
from mllmrec.serving.problems import HANDLERS, problem

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_BODY_KB, _BODY_SECONDS = 256, 30.0
_LONGEST = 200  # items of a history or a list in one request
T = TypeVar("T")
ItemIds = Annotated[list[str], Field(max_length=_LONGEST)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UserAsked(_Asked):
    """A user's history, whole or without some of its items."""

    phase: str
    user: str
    target: str | None = None
    nth: int = Field(0, ge=0)
    other: bool = False  # among the other kind of negatives
    without: Annotated[list[int], Field(max_length=_LONGEST)] = []  # places in the shown history


class HistoryAsked(_Asked):
    """A history of the reader's own."""

    phase: str
    history: ItemIds
    candidates: ItemIds | None = None  # None: the whole catalogue
    k: int = Field(10, ge=1, le=50)


def make_app(explored: Sequence[Explored]) -> FastAPI:
    """The application for one or more runs.

    Everything that needs data or weights is done by one thread, in the order in which it is asked for.
    """
    worker = ThreadPoolExecutor(1, thread_name_prefix="explore")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for one in explored:
            worker.submit(one.open)
        yield
        worker.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="mllmrec",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        exception_handlers=HANDLERS,
    )
    app.add_middleware(Bounded, size=_BODY_KB * 1024, seconds=_BODY_SECONDS)
    app.add_middleware(Local, pages=("/",), advice="open the address that the command printed")
    app.add_middleware(Headed)

    async def worked(what: Callable[[], T]) -> T:
        return await asyncio.wrap_future(worker.submit(what))

    def run_of(number: int) -> Explored:
        if not 0 <= number < len(explored):
            raise UserError(f"run {number}: this page shows {len(explored)}")
        return explored[number]

    @app.get("/api/runs")
    def runs() -> list[dict[str, Any]]:
        return [one.described() for one in explored]

    @app.get("/api/runs/{number}/users")
    def users(number: int, wanted: Annotated[_Table, Query()]) -> dict[str, Any]:
        one = run_of(number)
        settings = wanted.model_dump()
        page = one.stored(settings.pop("other")).table(Wanted(**settings), one.title_of)
        return {"total": page.total, "rows": [one.row(row) for row in page.rows]}

    @app.get("/api/runs/{number}/user")
    async def user(
        number: int,
        user: str,
        target: str | None = None,
        nth: Annotated[int, Query(ge=0)] = 0,
        other: bool = False,
    ) -> dict[str, Any]:
        one = run_of(number)
        key = await asyncio.to_thread(one.stored(other).key, user, target, nth)
        return await worked(lambda: views.user_view(one, key, other))

    @app.post("/api/runs/{number}/weigh")
    async def weigh(number: int, asked: UserAsked) -> dict[str, Any]:
        one = run_of(number)
        key = one.stored(asked.other).key(asked.user, asked.target, asked.nth)
        return await worked(lambda: views.weighed(one, asked.phase, key, asked.other, asked.without))

    @app.post("/api/runs/{number}/leave_one_out")
    async def leave_one_out(number: int, asked: UserAsked) -> dict[str, Any]:
        one = run_of(number)
        key = one.stored(asked.other).key(asked.user, asked.target, asked.nth)
        return await worked(lambda: views.left_out(one, asked.phase, key, asked.other))

    @app.post("/api/runs/{number}/rank")
    async def rank(number: int, asked: HistoryAsked) -> dict[str, Any]:
        one = run_of(number)
        return await worked(
            lambda: views.own_ranking(one, asked.phase, asked.history, asked.candidates, asked.k)
        )

    @app.post("/api/runs/{number}/rank_without")
    async def rank_without(number: int, asked: HistoryAsked) -> dict[str, Any]:
        one = run_of(number)

        def work() -> dict[str, Any]:
            prepared = one.opened.prepared
            codes = item_codes(prepared, asked.history)
            among = item_codes(prepared, asked.candidates or [])
            return asdict(one.opened.leave_one_out(asked.phase, one.opened.seen(codes), among))

        return await worked(work)

    @app.get("/api/runs/{number}/items")
    async def items(number: int, q: str = "", limit: Annotated[int, Query(ge=1, le=50)] = 12) -> Any:
        one = run_of(number)
        return await worked(lambda: [asdict(item) for item in one.opened.search(q, limit)])

    @app.get("/api/runs/{number}/item")
    async def item(number: int, item: str) -> dict[str, Any]:
        one = run_of(number)

        def work() -> dict[str, Any]:
            (code,) = item_codes(one.opened.prepared, [item])
            return asdict(one.opened.item(code))

        return await worked(work)

    @app.get("/api/runs/{number}/picture")
    def picture(number: int, item: str) -> Response:
        one = run_of(number)
        path = one.opened.picture(item) if one.data_state == "open" else None
        if path is None:
            return problem(404, f"item {item} has no image")
        return Response(
            thumbnail(path), media_type="image/png", headers={"Cache-Control": "private, max-age=600"}
        )

    @app.get("/api/runs/{number}/slices")
    def slices(number: int, other: bool = False) -> dict[str, Any]:
        return views.slices_view(run_of(number).stored(other))

    @app.get("/api/runs/{number}/timeline")
    def timeline(number: int) -> dict[str, Any]:
        return views.timeline_view(run_of(number))

    @app.get("/api/runs/{number}/rollouts")
    async def rollouts(
        number: int,
        step: int | None = None,
        text: str = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 60,
    ) -> Any:
        one = run_of(number)
        return await worked(lambda: views.rollouts_view(one, step, text, limit))

    @app.get("/")
    def index() -> FileResponse:
        return _file("index.html")

    @app.get("/page/{name}")
    def part(name: str) -> Response:
        known = {path.name for path in PAGE.iterdir()}
        return _file(name) if name in known else problem(404, f"there is no {name}")

    return app


class _Table(BaseModel):
    """The query of the table of rankings."""

    model_config = ConfigDict(extra="forbid")

    text: str = ""
    slice: str = ""
    moved: str = ""
    before: str = ""
    after: str = ""
    sort: str = ""
    descending: bool = False
    offset: int = Field(0, ge=0)
    limit: int = Field(50, ge=1, le=500)
    other: bool = False


def _file(name: str) -> FileResponse:
    path = PAGE / name
    return FileResponse(path, media_type=f"{_TYPES[path.suffix]}; charset=utf-8")
