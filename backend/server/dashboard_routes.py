"""The dashboard's routes: pages for people, and the forms on them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from backend.dashboard.page_reader import Reader
from backend.dashboard.rendering import Pages
from backend.dashboard.values import Summary
from backend.errors import NotThere, PrelabelError
from backend.scheduler.service import Service
from backend.server.cross_origin import refusal

BY = "the dashboard"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SAFE = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer the Origin of a form would be null
    "Cross-Origin-Resource-Policy": "same-origin",
}
FRESH = {"Cache-Control": "no-store"}
KEPT = {"Cache-Control": "private, max-age=3600"}
PICTURE = re.compile(r"(capture-)?[0-9A-Za-z_-]{1,80}")
Done = Callable[[str], Awaitable[object]]


class Dashboard:
    """Answers for the pages of one service.

    Args:
        service: that knows the projects.
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._secured = bool(settings.user)
        self._reader = Reader(settings.home, settings.label_studio_url, settings.kept)
        self._pages = Pages(settings.retrain_after)

    async def overview(self, request: Request) -> Response:
        """All projects."""
        told = {
            "notice": request.query_params.get("done", ""),
            "address": str(request.base_url).rstrip("/"),
        }
        projects = await self._summaries()
        return _html(self._pages.overview(projects, **told, secured=self._secured))

    async def cards(self, request: Request) -> Response:
        """The part of the overview that changes."""
        return _html(self._pages.cards(await self._summaries()))

    async def project(self, request: Request, id: str) -> Response:
        """One project."""
        notice = request.query_params.get("done", "")
        try:
            state = self._service.project(id)
            page = await asyncio.to_thread(
                lambda: self._pages.project(self._reader.page(state), notice)
            )
        except PrelabelError as error:
            return self._failed(error, "../")
        return _html(page)

    async def now(self, request: Request, id: str) -> Response:
        """The part of a project's page that changes, and the version it belongs to."""
        try:
            summary = await asyncio.to_thread(self._reader.summary, self._service.project(id))
        except PrelabelError as error:
            return self._failed(error, "../../")
        return _html(self._pages.now(summary), {"X-Live-Version": summary.version})

    async def picture(self, id: str, name: str) -> Response:
        """A small picture that the loop put into the project's folder."""
        try:
            self._service.project(id)
        except NotThere:
            return _nothing()
        if not PICTURE.fullmatch(name):
            return _nothing()
        file = self._reader.picture(id, name)
        try:
            content = await asyncio.to_thread(file.read_bytes)
        except OSError:
            return _nothing()
        return Response(content, media_type="image/jpeg", headers={**SAFE, **KEPT})

    async def asset(self, name: str) -> Response:
        """Style, script and sign."""
        asset = self._pages.asset(name)
        if asset is None:
            return _nothing()
        return Response(asset.content, media_type=asset.type, headers={**SAFE, **KEPT})

    async def act(self, request: Request, id: str, name: str, up: str, do: Done) -> Response:
        """Do what a form asks for, and send the browser back to the project's page.

        Args:
            request: the form.
            id: the project's.
            name: of the action.
            up: leads from the form's address to the folder of the project's page.
            do: does it, given the project's id.
        """
        reason = refusal(request.headers, secured=self._secured)
        if reason:
            page = self._pages.error("Not accepted", reason, f"{up}../")
            return HTMLResponse(page, 403, {**SAFE, **FRESH})
        try:
            await do(id)
        except PrelabelError as error:
            return self._failed(error, f"{up}../")
        return RedirectResponse(f"{up}{id}?done={name}", 303, {**SAFE, **FRESH})

    def unknown(self, path: str) -> Response:
        """There is no such page."""
        return self._failed(NotThere("There is no such page."), "../" * (path.count("/") - 1))

    async def _summaries(self) -> list[Summary]:
        states = self._service.projects()
        return await asyncio.to_thread(lambda: [self._reader.summary(state) for state in states])

    def _failed(self, error: PrelabelError, root: str) -> Response:
        missing = isinstance(error, NotThere)
        heading, status = ("Not there", 404) if missing else ("That did not work", 409)
        page = self._pages.error(heading, str(error), root)
        return HTMLResponse(page, status, {**SAFE, **FRESH})


def add_pages(app: FastAPI, service: Service) -> Dashboard:
    """Add the dashboard to the server; its overview is for the root to serve."""
    board = Dashboard(service)
    _add_views(app, board)
    _add_forms(app, board, service)
    return board


def wants_page(request: Request) -> bool:
    """Whether a browser asks: programs do not name HTML."""
    return "text/html" in request.headers.get("accept", "")


def _add_views(app: FastAPI, board: Dashboard) -> None:
    """What is looked at."""

    @app.get("/now", include_in_schema=False)
    async def cards(request: Request) -> Response:
        return await board.cards(request)

    @app.get("/projects/{id}", include_in_schema=False)
    async def project(request: Request, id: str) -> Response:
        return await board.project(request, id)

    @app.get("/projects/{id}/now", include_in_schema=False)
    async def now(request: Request, id: str) -> Response:
        return await board.now(request, id)

    @app.get("/projects/{id}/pictures/{name}.jpg", include_in_schema=False)
    async def picture(id: str, name: str) -> Response:
        return await board.picture(id, name)

    @app.get("/static/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return await board.asset(name)


def _add_forms(app: FastAPI, board: Dashboard, service: Service) -> None:
    """What is done."""

    @app.post("/projects/{id}/train", include_in_schema=False)
    async def train(request: Request, id: str) -> Response:
        return await board.act(request, id, "train", "../", service.train)

    @app.post("/projects/{id}/cancel", include_in_schema=False)
    async def cancel(request: Request, id: str) -> Response:
        return await board.act(request, id, "cancel", "../", service.cancel)

    @app.post("/projects/{id}/rollback", include_in_schema=False)
    async def rollback(request: Request, id: str) -> Response:
        return await board.act(
            request, id, "rollback", "../", lambda project: service.roll_back(project, BY)
        )

    @app.post("/projects/{id}/promote/{version}", include_in_schema=False)
    async def promote(request: Request, id: str, version: str) -> Response:
        return await board.act(
            request,
            id,
            "promote",
            "../../",
            lambda project: service.promote(project, version, BY, "promoted by a person"),
        )


def _html(page: str, more: dict[str, str] | None = None) -> Response:
    return HTMLResponse(page, headers={**SAFE, **FRESH, "Vary": "Accept", **(more or {})})


def _nothing() -> Response:
    return Response(status_code=404, headers=SAFE)
