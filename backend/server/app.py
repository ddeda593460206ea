"""The HTTP server: the ML protocol at the root, and what people and programs may look at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from backend.errors import NotThere, PrelabelError, UsageError
from backend.label_studio.ml_protocol import MODEL_CLASS, SetupRequest, read_event
from backend.scheduler.service import Service
from backend.server.cross_origin import foreign
from backend.server.dashboard_routes import add_pages, wants_page
from backend.server.source_archive import pack_source
from backend.store.webhook_secret import home_sign

LARGEST_EVENT = 8_000_000
"""Bytes of a webhook that are read; a larger one wakes every project instead."""
LARGEST_SETUP = 4_000_000
"""Bytes of a /setup: a labeling config, which Label Studio shows in a browser."""
LARGEST_PREDICT = 256_000_000
"""Bytes of a /predict: Label Studio sends 100 tasks, whose images may stand in them."""
About = dict[str, Any]


def not_foreign(request: Request) -> None:
    """Programs may ask, Label Studio among them, and our own pages; no page of another site.

    A browser on this machine reaches a backend that nobody else can reach.

    Raises:
        HTTPException: a page of another site sent the request.
    """
    if foreign(request.headers):
        raise HTTPException(403, "A page of another site may not do that.")


OURS = (Depends(not_foreign),)


def make_app(service: Service) -> FastAPI:
    """The application over a service.

    Args:
        service: started and stopped with the application.
    """

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(title="Prelabel", lifespan=running)
    app.exception_handler(PrelabelError)(_explain)
    _add_protocol(app, service)
    _add_api(app, service)
    return app


def _add_protocol(app: FastAPI, service: Service) -> None:
    """What Label Studio calls."""

    home = home_sign(service.settings.home)

    @app.get("/health")
    async def health() -> About:
        """Alive; answered from memory. Another sign of the home means another backend."""
        return {"status": "UP", "model_class": MODEL_CLASS, "home": home}

    @app.post("/setup", dependencies=OURS)
    async def setup(request: Request) -> About:
        """Label Studio names a project."""
        try:
            asked = SetupRequest.model_validate_json(await _body(request, LARGEST_SETUP))
        except ValidationError as error:
            raise UsageError(f"/setup cannot be read: {error.errors()[0]['msg']}.") from error
        return {
            "model_version": await service.setup(asked.project, asked.hostname, asked.access_token)
        }

    @app.post("/predict", dependencies=OURS)
    async def predict(request: Request) -> Response:
        """Exactly one result per task."""
        answer = await service.predict(await _body(request, LARGEST_PREDICT))
        return Response(answer, media_type="application/json")

    @app.post("/webhook", dependencies=OURS)
    async def webhook(request: Request) -> About:
        """Something may have changed."""
        event = read_event(await _some(request))
        woken = service.wake(event.project, forced=event.training, labels=event.labels)
        return {"status": "woken", "projects": woken}

    @app.get("/versions")
    async def versions() -> About:
        """All versions, newest first."""
        return {"versions": service.versions()}


def _add_api(app: FastAPI, service: Service) -> None:
    """What people and programs ask."""
    board = add_pages(app, service)

    @app.get("/")
    async def root(request: Request) -> Response:
        """The dashboard; for programs what this is, and where its source is."""
        if wants_page(request):
            return await board.overview(request)
        about = {
            "name": "Prelabel",
            "status": "UP",
            "projects": "/api/projects",
            "source": "/source",
        }
        return JSONResponse(about, headers={"Vary": "Accept"})

    @app.exception_handler(404)
    async def unknown(request: Request, error: Exception) -> Response:
        """A page for people, a sentence for programs."""
        if wants_page(request):
            return board.unknown(request.url.path)
        return JSONResponse({"detail": getattr(error, "detail", "Not Found")}, 404)

    @app.get("/source")
    async def source() -> Response:
        """The source of what is running here, as its licence (AGPL-3.0-or-later) promises."""
        named = {"content-disposition": 'attachment; filename="prelabel-source.zip"'}
        packed = await asyncio.to_thread(pack_source)
        return Response(packed, media_type="application/zip", headers=named)

    @app.get("/api/projects")
    async def projects() -> list[About]:
        """All connected projects."""
        return service.projects()

    @app.get("/api/projects/{id}")
    async def project(id: str) -> About:
        """One project."""
        return service.project(id)

    @app.post("/api/projects/{id}/cancel", dependencies=OURS)
    async def cancel(id: str) -> About:
        """Cancel the training under way; the live version stays."""
        return await service.cancel(id)


async def _body(request: Request, most: int) -> bytes:
    """The body.

    Raises:
        HTTPException: it is larger than that many bytes.
    """
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > most:
            raise HTTPException(413, f"That is larger than {most // 1_000_000} MB.")
        body += chunk
    return bytes(body)


async def _some(request: Request) -> bytes:
    """The body, unless it is too large to be worth reading."""
    body = bytearray()
    async for chunk in request.stream():
        if len(body) <= LARGEST_EVENT:
            body += chunk
    return bytes(body) if len(body) <= LARGEST_EVENT else b""


async def _explain(request: Request, error: Exception) -> Response:
    """A failure as one sentence."""
    status = 404 if isinstance(error, NotThere) else 400 if isinstance(error, UsageError) else 500
    return JSONResponse({"detail": str(error)}, status)
