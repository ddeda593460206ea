"""The HTTP server: Label Studio's ML backend protocol, the API and the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from backend.errors import NotFoundError, PrelabelError, UsageError
from backend.json_records import JsonObject, to_json
from backend.scheduler.service import Service
from backend.server.cross_origin import SAME_SITE_ONLY
from backend.server.dashboard_routes import accepts_html, add_dashboard
from backend.server.ml_routes import add_ml_routes
from backend.server.source_archive import zip_source


def create_app(service: Service) -> FastAPI:
    """Create the application; it starts and stops the service."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(title="Prelabel", lifespan=lifespan)
    app.exception_handler(PrelabelError)(_error_response)
    add_ml_routes(app, service)
    _add_api_routes(app, service)
    return app


def _add_api_routes(app: FastAPI, service: Service) -> None:
    """Add the dashboard and the API."""
    dashboard = add_dashboard(app, service)

    @app.get("/")
    async def root(request: Request) -> Response:
        """Return the dashboard to browsers, and a description of the server to programs."""
        if accepts_html(request):
            return await dashboard.overview(request)
        about = {
            "name": "Prelabel",
            "status": "UP",
            "projects": "/api/projects",
            "source": "/source",
        }
        return JSONResponse(about, headers={"Vary": "Accept"})

    @app.exception_handler(404)
    async def unknown(request: Request, error: Exception) -> Response:
        """Return a page to browsers, and JSON to programs."""
        if accepts_html(request):
            return dashboard.not_found(request.url.path)
        return JSONResponse({"detail": getattr(error, "detail", "Not Found")}, 404)

    @app.get("/source")
    async def source() -> Response:
        """Return the source of the running program, as its AGPL-3.0-or-later license requires."""
        headers = {"content-disposition": 'attachment; filename="prelabel-source.zip"'}
        archive = await asyncio.to_thread(zip_source)
        return Response(archive, media_type="application/zip", headers=headers)

    @app.get("/api/projects")
    async def projects() -> list[JsonObject]:
        """Return all connected projects."""
        return [to_json(project) for project in service.projects()]

    @app.get("/api/projects/{id}")
    async def project(id: str) -> JsonObject:
        """Return a project."""
        return to_json(service.project(id))

    @app.post("/api/projects/{id}/cancel", dependencies=SAME_SITE_ONLY)
    async def cancel(id: str) -> JsonObject:
        """Cancel the running training; the live version stays."""
        return to_json(await service.cancel(id))


async def _error_response(request: Request, error: Exception) -> Response:
    """Return an error as JSON."""
    status = (
        404 if isinstance(error, NotFoundError) else 400 if isinstance(error, UsageError) else 500
    )
    return JSONResponse({"detail": str(error)}, status)
