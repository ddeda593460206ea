"""Routes of the dashboard's pages and forms."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from backend.dashboard.audit_values import AuditPairs
from backend.dashboard.page_reader import DashboardReader
from backend.dashboard.rendering import PageRenderer
from backend.dashboard.security_headers import (
    CACHE_HEADERS,
    NO_CACHE_HEADERS,
    SECURITY_HEADERS,
)
from backend.dashboard.values import ProjectSummary
from backend.errors import NotFoundError, PrelabelError
from backend.scheduler.label_decisions import LabelDecision
from backend.scheduler.service import Service
from backend.server.cross_origin import explain_form_refusal
from backend.server.form_fields import read_label_answer
from backend.server.request_body import is_form, read_file
from backend.store.project_titles import title_notes
from backend.store.queue_front import StoredLabelError

DASHBOARD_ACTOR = "the dashboard"
THUMBNAIL_NAME_PATTERN = re.compile(r"(capture-)?[0-9A-Za-z_-]{1,80}")
FormAction = Callable[[str], Awaitable[object]]


class DashboardRoutes:
    """Render the dashboard's responses."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._has_auth = bool(settings.user)
        self._reader = DashboardReader(
            settings.home, settings.label_studio_url, settings.endpoint_data_dir
        )
        self._pages = PageRenderer(settings.retrain_after)
        self._max_image_bytes = settings.max_image_bytes

    async def overview(self, request: Request) -> Response:
        """Return the overview of all projects."""
        page_values = {
            "notice": request.query_params.get("done", ""),
            "address": str(request.base_url).rstrip("/"),
        }
        projects = await self._summaries()
        problems = await asyncio.to_thread(self._reader.left_out_projects)
        page = self._pages.overview(
            projects, **page_values, secured=self._has_auth, problems=problems
        )
        return _html_response(page)

    async def cards(self, request: Request) -> Response:
        """Return the refreshed part of the overview."""
        return _html_response(self._pages.cards(await self._summaries()))

    async def project(self, request: Request, id: str) -> Response:
        """Return a project's page."""
        notice = request.query_params.get("done", "")
        try:
            state = self._service.project(id)
            title_note = title_notes(self._service.projects()).get(state.id, "")
            labeled = self._service.recently_labeled(id)
            page = await asyncio.to_thread(
                lambda: self._pages.render_project(
                    self._reader.page(state, title_note, labeled), notice
                )
            )
        except PrelabelError as error:
            return self._error_page(error, "../")
        return _html_response(page)

    async def promotion_question(self, id: str, version: str) -> Response:
        """Return the page that asks before another version goes live."""
        return await self._subpage(
            id,
            lambda s: self._pages.promotion_question(
                self._reader.promotion_question(s.status, version)
            ),
            "../../../",
        )

    async def audit_images(self, id: str, selection: AuditPairs) -> Response:
        """Return the page of selected audit images."""
        return await self._subpage(
            id, lambda s: self._pages.render_audit(s, self._reader.audit_page(s, selection))
        )

    async def comparison(self, id: str, first: str, second: str) -> Response:
        """Return the page that compares two versions."""
        return await self._subpage(
            id, lambda s: self._pages.comparison(s, self._reader.comparison(s, first, second))
        )

    async def _subpage(
        self, id: str, render: Callable[[ProjectSummary], str], root: str = "../../"
    ) -> Response:
        """Return a page below a project's page."""
        try:
            status = self._service.project(id)
            page = await asyncio.to_thread(lambda: render(self._reader.summary(status)))
        except PrelabelError as error:
            return self._error_page(error, root)
        return _html_response(page)

    async def round_status(self, request: Request, id: str) -> Response:
        """Return the refreshed part of a project's page, with the live version in a header."""
        try:
            summary = await asyncio.to_thread(self._reader.summary, self._service.project(id))
        except PrelabelError as error:
            return self._error_page(error, "../../")
        return _html_response(
            self._pages.round_status(summary), {"X-Live-Version": summary.status.version or ""}
        )

    async def thumbnail(self, id: str, name: str) -> Response:
        """Return a thumbnail from the project's folder."""
        try:
            self._service.project(id)
        except NotFoundError:
            return _not_found()
        if not THUMBNAIL_NAME_PATTERN.fullmatch(name):
            return _not_found()
        file = self._reader.thumbnail_path(id, name)
        try:
            content = await asyncio.to_thread(file.read_bytes)
        except OSError:
            return _not_found()
        return Response(
            content, media_type="image/jpeg", headers={**SECURITY_HEADERS, **CACHE_HEADERS}
        )

    async def asset(self, name: str) -> Response:
        """Return a style sheet, script or icon."""
        asset = self._pages.asset(name)
        if asset is None:
            return _not_found()
        return Response(
            asset.content, media_type=asset.type, headers={**SECURITY_HEADERS, **CACHE_HEADERS}
        )

    async def submit_form(
        self,
        request: Request,
        id: str,
        name: str,
        parent_path: str,
        run_action: FormAction,
        *,
        to_overview: bool = False,
    ) -> Response:
        """Run a form's action, and redirect the browser to the project's page.

        Args:
            request: the form's request.
            id: id of the project.
            name: name of the action, shown as a notice.
            parent_path: relative path from the form's URL to the folder of the project's page.
            run_action: called with the project's id.
            to_overview: redirect to the overview, because the project's page is gone.
        """
        refusal_reason = explain_form_refusal(request.headers, has_auth=self._has_auth)
        if refusal_reason:
            page = self._pages.error("Not accepted", refusal_reason, f"{parent_path}../")
            return HTMLResponse(page, 403, {**SECURITY_HEADERS, **NO_CACHE_HEADERS})
        try:
            await run_action(id)
        except PrelabelError as error:
            return self._error_page(error, f"{parent_path}../")
        page_path = f"{parent_path}../" if to_overview else f"{parent_path}{id}"
        return RedirectResponse(
            f"{page_path}?done={name}", 303, {**SECURITY_HEADERS, **NO_CACHE_HEADERS}
        )

    async def try_image(self, request: Request, id: str) -> Response:
        """Return the predictions for an uploaded image: JSON to scripts, a page to forms."""
        refusal_reason = explain_form_refusal(request.headers, has_auth=self._has_auth)
        try:
            if refusal_reason:
                raise HTTPException(403, refusal_reason)
            summary = self._reader.summary(self._service.project(id))
            content = await read_file(request, self._max_image_bytes)
            answer = await self._service.try_image(id, content)
        except (HTTPException, PrelabelError) as error:
            return self._refuse_image(error, as_page=is_form(request))
        if is_form(request):
            return _html_response(self._pages.try_answer(summary, answer))
        return JSONResponse(answer, headers={**SECURITY_HEADERS, **NO_CACHE_HEADERS})

    def _refuse_image(self, error: HTTPException | PrelabelError, *, as_page: bool) -> Response:
        if isinstance(error, HTTPException):
            status, detail = error.status_code, str(error.detail)
        else:
            status, detail = (404 if isinstance(error, NotFoundError) else 422), str(error)
        headers = {**SECURITY_HEADERS, **NO_CACHE_HEADERS}
        if as_page:
            page = self._pages.error("No prediction", detail, "../../")
            return HTMLResponse(page, status, headers)
        return JSONResponse({"detail": detail}, status, headers)

    def not_found(self, path: str) -> Response:
        """Return the error page for an unknown path."""
        return self._error_page(
            NotFoundError("There is no such page."), "../" * (path.count("/") - 1)
        )

    async def _summaries(self) -> list[ProjectSummary]:
        states = self._service.projects()
        return await asyncio.to_thread(self._reader.summaries, states)

    def _error_page(self, error: PrelabelError, root: str) -> Response:
        is_missing = isinstance(error, NotFoundError)
        heading, status = ("Not found", 404) if is_missing else ("Action failed", 409)
        page = self._pages.error(heading, str(error), root)
        return HTMLResponse(page, status, {**SECURITY_HEADERS, **NO_CACHE_HEADERS})


def add_dashboard(app: FastAPI, service: Service) -> DashboardRoutes:
    """Add the dashboard's routes except the overview, which the root route serves."""
    routes = DashboardRoutes(service)
    _add_page_routes(app, routes)
    _add_form_routes(app, routes, service)
    _add_label_routes(app, routes, service)
    return routes


def accepts_html(request: Request) -> bool:
    """Return whether the client is a browser, which accepts HTML."""
    return "text/html" in request.headers.get("accept", "")


def _add_page_routes(app: FastAPI, routes: DashboardRoutes) -> None:
    """Add the routes of pages."""

    @app.get("/now", include_in_schema=False)
    async def cards(request: Request) -> Response:
        return await routes.cards(request)

    @app.get("/projects/{id}", include_in_schema=False)
    async def project(request: Request, id: str) -> Response:
        return await routes.project(request, id)

    @app.get("/projects/{id}/confirm/{version}", include_in_schema=False)
    async def confirm(id: str, version: str) -> Response:
        return await routes.promotion_question(id, version)

    @app.get("/projects/{id}/now", include_in_schema=False)
    async def now(request: Request, id: str) -> Response:
        return await routes.round_status(request, id)

    @app.get("/projects/{id}/audit", include_in_schema=False)
    async def audit_images(
        id: str, control: str = "", given: str | None = None, predicted: str | None = None
    ) -> Response:
        is_pair = given is not None and predicted is not None
        selection = AuditPairs(control, given or "", predicted or "", is_pair)
        return await routes.audit_images(id, selection)

    @app.get("/projects/{id}/compare", include_in_schema=False)
    async def comparison(id: str, first: str = "", second: str = "") -> Response:
        return await routes.comparison(id, first, second)

    @app.get("/projects/{id}/pictures/{name}.jpg", include_in_schema=False)
    async def picture(id: str, name: str) -> Response:
        return await routes.thumbnail(id, name)

    @app.get("/static/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return await routes.asset(name)


def _add_form_routes(app: FastAPI, routes: DashboardRoutes, service: Service) -> None:
    """Add the routes of forms."""

    @app.post("/projects/{id}/train", include_in_schema=False)
    async def train(request: Request, id: str) -> Response:
        return await routes.submit_form(request, id, "train", "../", service.train)

    @app.post("/projects/{id}/cancel", include_in_schema=False)
    async def cancel(request: Request, id: str) -> Response:
        return await routes.submit_form(request, id, "cancel", "../", service.cancel)

    @app.post("/projects/{id}/try", include_in_schema=False)
    async def try_image(request: Request, id: str) -> Response:
        return await routes.try_image(request, id)

    @app.post("/projects/{id}/rollback", include_in_schema=False)
    async def rollback(request: Request, id: str) -> Response:
        return await routes.submit_form(
            request,
            id,
            "rollback",
            "../",
            lambda project: service.roll_back(
                project, DASHBOARD_ACTOR, request.query_params.get("to", "")
            ),
        )

    @app.post("/projects/{id}/leave", include_in_schema=False)
    async def leave(request: Request, id: str) -> Response:
        return await routes.submit_form(
            request, id, "leave", "../", service.leave, to_overview=True
        )

    @app.post("/projects/{id}/labels", include_in_schema=False)
    async def labels(request: Request, id: str) -> Response:
        async def save_answer(project: str) -> None:
            await service.save_removed_label_decision(project, await read_label_answer(request))

        return await routes.submit_form(request, id, "labels", "../", save_answer)

    @app.post("/projects/{id}/promote/{version}", include_in_schema=False)
    async def promote(request: Request, id: str, version: str) -> Response:
        return await routes.submit_form(
            request,
            id,
            "promote",
            "../../",
            lambda project: service.promote(
                project, version, DASHBOARD_ACTOR, "promoted by a person"
            ),
        )


def _add_label_routes(app: FastAPI, routes: DashboardRoutes, service: Service) -> None:
    """Add the forms that decide on a probable label error; its labels are in the query."""

    @app.post("/projects/{id}/suspects/{task}/{action}", include_in_schema=False)
    async def decide(
        request: Request,
        id: str,
        task: int,
        action: LabelDecision,
        control: str,
        given: str,
        suggested: str,
    ) -> Response:
        error = StoredLabelError(task, given, suggested, 0.0, "", control)
        return await routes.submit_form(
            request,
            id,
            action,
            "../../../",
            lambda project: service.decide_label(project, action, error),
        )


def _html_response(page: str, extra_headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(
        page,
        headers={**SECURITY_HEADERS, **NO_CACHE_HEADERS, "Vary": "Accept", **(extra_headers or {})},
    )


def _not_found() -> Response:
    return Response(status_code=404, headers=SECURITY_HEADERS)
