"""Pages of the dashboard, rendered or served without a Label Studio."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from backend.dashboard.page_reader import DashboardReader
from backend.dashboard.rendering import PageRenderer
from backend.records import ProjectStatus
from backend.scheduler.service import Service
from backend.server.app import create_app
from backend.settings import Settings

SERVER = "http://label.example"
Asking = Callable[[httpx.AsyncClient], Awaitable[None]]


def page(home: Path, shown: ProjectStatus, notice: str = "") -> str:
    """Return a project's page."""
    return PageRenderer(10).render_project(DashboardReader(home, SERVER).page(shown), notice)


def text(html: str) -> str:
    """Return the text without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def served(home: Path, ask: Asking) -> None:
    """Ask a server whose Label Studio is away."""
    served_with_service(home, lambda client, _: ask(client))


def served_with_service(
    home: Path, ask: Callable[[httpx.AsyncClient, Service], Awaitable[None]]
) -> None:
    """Ask a server whose Label Studio is away, and look at its service."""

    async def run() -> None:
        settings = Settings(home=home, label_studio_url="http://127.0.0.1:9", api_key="x")
        service = Service(settings)
        await service.start()
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await ask(client, service)
        await service.stop()

    asyncio.run(run())
