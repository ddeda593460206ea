"""The root of the endpoint: a page to try it in a browser, and JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from backend.dashboard.rendering import EndpointCall, TemplateRenderer
from backend.dashboard.security_headers import CACHE_HEADERS, NO_CACHE_HEADERS, SECURITY_HEADERS

if TYPE_CHECKING:
    from backend.endpoint.access import AccessControl

ABOUT = {"name": "Prelabel", "functions": "/v1/functions", "source": "/source"}


def add_root_page(app: FastAPI, access: AccessControl) -> None:
    """Add the root page and its static files."""
    pages = TemplateRenderer()

    @app.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        """Return the paths of the functions and of the source code (AGPL-3.0-or-later)."""
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(ABOUT, headers={"Vary": "Accept"})
        address = str(request.base_url).rstrip("/")
        page = pages.endpoint_page(EndpointCall(address, needs_key=not access.is_open))
        return HTMLResponse(
            page, headers={**SECURITY_HEADERS, **NO_CACHE_HEADERS, "Vary": "Accept"}
        )

    @app.get("/static/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        """Return a style sheet, script or icon of the page."""
        asset = pages.asset(name)
        if asset is None:
            return Response(status_code=404, headers=SECURITY_HEADERS)
        headers = {**SECURITY_HEADERS, **CACHE_HEADERS}
        return Response(asset.content, media_type=asset.type, headers=headers)
