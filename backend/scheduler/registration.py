"""Register the projects that ``/setup`` requests name; anybody may send one."""

from __future__ import annotations

import asyncio

from backend.errors import LabelStudioError, UsageError
from backend.label_studio.ml_protocol import parse_project
from backend.runtime.connection import is_server_reachable, is_token_valid
from backend.scheduler.project_state import ProjectState
from backend.settings import Settings
from backend.store.projects import ProjectRecord, ProjectStore
from backend.store.servers import is_same_server

PARALLEL_CHECKS = 4
"""Servers of unknown projects that are checked at the same time."""


class Registration:
    """Registers projects.

    Args:
        settings: settings with the allowed servers.
        projects: the project store.
    """

    def __init__(self, settings: Settings, projects: ProjectStore) -> None:
        self._settings = settings
        self._projects = projects
        self._checks = asyncio.Semaphore(PARALLEL_CHECKS)

    async def register(self, project: str, server: str, token: str) -> ProjectRecord:
        """Add a project or update its record.

        Args:
            project: ``"<number>.<time of creation, seconds since 1970>"``.
            server: URL of Label Studio, as it reports it; may be empty.
            token: access token of the project's creator; may be empty.

        Raises:
            UsageError: the project is missing, or its server is not allowed.
        """
        number, created = parse_project({"project": project})
        if not number:
            raise UsageError(f"/setup needs a project, not {project[:40]!a}.")
        self._check_server(server)
        return await asyncio.to_thread(self._register, server, number, created, token)

    async def check_reachable(self, project: ProjectState) -> None:
        """Check that a project's server answers, before a worker process spends time on it.

        Raises:
            LabelStudioError: it does not, and the project never answered before.
        """
        server, configured = project.record.server, self._settings.label_studio_url
        if not project.is_unknown or not server or is_same_server(server, configured):
            return
        # Label Studio may call itself by an address that only its own container knows
        candidates = [server, configured] if self._settings.api_key else [server]
        async with self._checks:
            for candidate in candidates:
                if await asyncio.to_thread(is_server_reachable, candidate):
                    return
        raise LabelStudioError(f"Label Studio cannot be reached at {server}.")

    def _register(self, server: str, number: int, created: int, token: str) -> ProjectRecord:
        """Add a project or update its record.

        A known token is replaced by a valid one only, and is never sent to another address than the
        one it was given for.
        """
        servers = {known.id: known.server for known in self._projects.find_by_number(number)}
        record = self._projects.register(
            server, number, created, is_server_alive=is_server_reachable
        )
        known_token = self._projects.readable_token(record.id)
        if record.missing_since:
            record = self._projects.set_present(record.id)
        has_moved = not is_same_server(servers.get(record.id, record.server), record.server)
        if has_moved or (token and token != known_token):
            candidates = {server, self._settings.label_studio_url} - {""}
            if (
                not known_token
                or has_moved
                or any(is_token_valid(candidate, number, token) for candidate in candidates)
            ):
                self._projects.save_token(record.id, token)
        return record

    def _check_server(self, server: str) -> None:
        allowed = self._settings.allowed_servers
        if server and allowed and not any(is_same_server(server, other) for other in allowed):
            raise UsageError(f"{server} is not in PRELABEL_ALLOWED_SERVERS; add it to connect it.")
