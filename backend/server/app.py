"""The HTTP server: Label Studio's ML backend protocol, the API and the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from backend.errors import NotFoundError, PrelabelError, UsageError
from backend.json_records import JsonObject, to_json
from backend.label_studio.ml_protocol import MODEL_CLASS, parse_event, parse_setup
from backend.scheduler.service import Service
from backend.server.cross_origin import is_cross_site
from backend.server.dashboard_routes import accepts_html, add_dashboard
from backend.server.source_archive import zip_source
from backend.store.webhook_secret import home_fingerprint

MAX_EVENT_BYTES = 8_000_000
"""Maximum size of a webhook's body; a larger one wakes every project instead."""
MAX_SETUP_BYTES = 4_000_000
"""Maximum size of a ``/setup`` body, which holds a labeling config."""
MAX_PREDICT_BYTES = 256_000_000
"""Maximum size of a ``/predict`` body: up to 100 tasks, possibly with embedded images."""


def reject_cross_site(request: Request) -> None:
    """Reject a request that a page of another site sent through the user's browser.

    Raises:
        HTTPException: the request is cross-site.
    """
    if is_cross_site(request.headers):
        raise HTTPException(403, "Cross-site requests are not allowed.")


SAME_SITE_ONLY = (Depends(reject_cross_site),)


def create_app(service: Service) -> FastAPI:
    """Create the application; it starts and stops the service."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(title="Prelabel", lifespan=lifespan)
    app.exception_handler(PrelabelError)(_error_response)
    _add_ml_routes(app, service)
    _add_api_routes(app, service)
    return app


def _add_ml_routes(app: FastAPI, service: Service) -> None:
    """Add the ML backend protocol."""
    fingerprint = home_fingerprint(service.settings.home)

    @app.get("/health")
    async def health() -> JsonObject:
        """Return the state of the server; ``home`` identifies its home folder."""
        return {"status": "UP", "model_class": MODEL_CLASS, "home": fingerprint}

    @app.post("/setup", dependencies=SAME_SITE_ONLY)
    async def setup(request: Request) -> JsonObject:
        """Connect a project."""
        setup_request = parse_setup(await _read_body(request, MAX_SETUP_BYTES))
        return {
            "model_version": await service.setup(
                setup_request.project, setup_request.hostname, setup_request.access_token
            )
        }

    @app.post("/predict", dependencies=SAME_SITE_ONLY)
    async def predict(request: Request) -> Response:
        """Return exactly one result per task."""
        result_body = await service.predict(await _read_body(request, MAX_PREDICT_BYTES))
        return Response(result_body, media_type="application/json")

    @app.post("/webhook", dependencies=SAME_SITE_ONLY)
    async def webhook(request: Request) -> JsonObject:
        """Start rounds of the projects that may have changed."""
        event = parse_event(await _read_event_body(request))
        woken_projects = service.wake(
            event.project, forced=event.is_training_requested, labels=event.annotation_count
        )
        return {"status": "woken", "projects": woken_projects}

    @app.get("/versions")
    async def versions() -> JsonObject:
        """Return all versions, newest first."""
        return {"versions": service.versions()}


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


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body.

    Raises:
        HTTPException: the body is larger than ``max_bytes``.
    """
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise HTTPException(413, f"The body is larger than {max_bytes // 1_000_000} MB.")
        body += chunk
    return bytes(body)


async def _read_event_body(request: Request) -> bytes:
    """Return the body of a webhook; empty if it is larger than ``MAX_EVENT_BYTES``."""
    body = bytearray()
    async for chunk in request.stream():
        if len(body) <= MAX_EVENT_BYTES:
            body += chunk
    return bytes(body) if len(body) <= MAX_EVENT_BYTES else b""


async def _error_response(request: Request, error: Exception) -> Response:
    """Return an error as JSON."""
    status = (
        404 if isinstance(error, NotFoundError) else 400 if isinstance(error, UsageError) else 500
    )
    return JSONResponse({"detail": str(error)}, status)
