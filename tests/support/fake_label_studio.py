"""HTTP servers that answer only the request for a project."""

from __future__ import annotations

import http.server

PROJECT_IDENTITY = "p"


class ProjectRequestHandler(http.server.BaseHTTPRequestHandler):
    """Answers every request with one project."""

    def do_GET(self) -> None:
        body = b'{"id": 1, "title": "digits", "label_config": "<View/>"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class NoProjectRequestHandler(ProjectRequestHandler):
    """Answers like a Label Studio without projects."""

    def do_GET(self) -> None:
        is_list = self.path.startswith("/api/projects/?")
        body = b'{"results": []}' if is_list else b'{"detail": "Not found."}'
        self.send_response(200 if is_list else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
