"""The routes of Label Studio's ML backend protocol: setup, predictions and webhooks."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from fastapi import FastAPI, Request, Response

from backend.errors import StoreError
from backend.json_records import JsonObject
from backend.label_studio.ml_protocol import MODEL_CLASS, parse_event, parse_setup
from backend.scheduler.service import Service
from backend.server.cross_origin import SAME_SITE_ONLY
from backend.server.request_body import read_body
from backend.store.served_address import save_called_port
from backend.store.webhook_secret import home_fingerprint

MAX_EVENT_BYTES = 8_000_000
"""Maximum size of a webhook's body; a larger one wakes every project instead."""
MAX_SETUP_BYTES = 4_000_000
"""Maximum size of a ``/setup`` body, which holds a labeling config."""
MAX_PREDICT_BYTES = 256_000_000
"""Maximum size of a ``/predict`` body: up to 100 tasks, possibly with embedded images."""


def add_ml_routes(app: FastAPI, service: Service) -> None:
    """Add the ML backend protocol."""
    fingerprint = home_fingerprint(service.settings.home)

    @app.get("/health")
    async def health() -> JsonObject:
        """Return the state of the server; ``home`` identifies its home folder."""
        return {"status": "UP", "model_class": MODEL_CLASS, "home": fingerprint}

    @app.post("/setup", dependencies=SAME_SITE_ONLY)
    async def setup(request: Request) -> JsonObject:
        """Connect a project."""
        setup_request = parse_setup(await read_body(request, MAX_SETUP_BYTES))
        version = await service.setup(
            setup_request.project, setup_request.hostname, setup_request.access_token
        )
        await _save_called_port(request, service.settings.home)
        return {"model_version": version}

    @app.post("/predict", dependencies=SAME_SITE_ONLY)
    async def predict(request: Request) -> Response:
        """Return exactly one result per task."""
        result_body = await service.predict(await read_body(request, MAX_PREDICT_BYTES))
        return Response(result_body, media_type="application/json")

    @app.post("/webhook", dependencies=SAME_SITE_ONLY)
    async def webhook(request: Request) -> JsonObject:
        """Start rounds of the projects that may have changed."""
        event = parse_event(await _read_event_body(request))
        woken_projects = service.wake(
            event.project,
            forced=event.is_training_requested,
            labels=event.annotation_count,
            labeled_tasks=event.labeled_tasks,
        )
        return {"status": "woken", "projects": woken_projects}

    @app.get("/versions")
    async def versions() -> JsonObject:
        """Return all versions, newest first."""
        return {"versions": service.versions()}


async def _save_called_port(request: Request, home: Path) -> None:
    """Save the port of this server, so that the next `prelabel serve` listens there again."""
    _, port = request.scope.get("server") or ("", 0)
    if port:
        with contextlib.suppress(StoreError):  # --port can name it
            await asyncio.to_thread(save_called_port, home, port)


async def _read_event_body(request: Request) -> bytes:
    """Return the body of a webhook; empty if it is larger than ``MAX_EVENT_BYTES``."""
    body = bytearray()
    async for chunk in request.stream():
        if len(body) <= MAX_EVENT_BYTES:
            body += chunk
    return bytes(body) if len(body) <= MAX_EVENT_BYTES else b""
