"""All checks in their order: what needs nothing first, then Label Studio, then each project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from backend.doctor import label_studio_checks, machine_checks, project_checks
from backend.doctor.check_report import CHECK_TIMEOUT_SECONDS, CheckReport
from backend.doctor.check_result import CheckResult, unchecked
from backend.doctor.machine_checks import FreeSpace, free_bytes
from backend.doctor.project_checker import (
    RESTART_FIX,
    BackendAddress,
    ProjectChecker,
    check_networks,
    check_ssrf_protection,
)
from backend.errors import AccessDeniedError, NotFoundError, StoreError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.diagnostics import identify_label_studio
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from backend.store.servers import is_same_server
from backend.store.webhook_secret import load_webhook_secret

CLIENT_TIMEOUT_SECONDS = 8.0
"""Seconds that a call of Label Studio may take."""


class Doctor:
    """Looks at a set-up.

    Args:
        settings: as ``prelabel serve`` has them.
        backend: where it listens, as Label Studio reaches it.
        on_result: told each line at once.
        measure_free: bytes left on a folder's disk.
    """

    def __init__(
        self,
        settings: Settings,
        backend: str,
        on_result: Callable[[CheckResult], None] = lambda line: None,
        measure_free: FreeSpace = free_bytes,
    ) -> None:
        self._settings = settings
        self._backend = backend.rstrip("/")
        self._resources = Resources(settings)
        self._report = CheckReport(on_result)
        self._free_bytes = measure_free

    def run(self, project: str = "") -> list[CheckResult]:
        """Everything.

        Args:
            project: a project, by number or title; empty: all that this home folder knows.

        Returns:
            the lines of the report, in order.
        """
        self._check_machine()
        client = self._check_label_studio(project)
        if client is not None:
            self._check_projects(client, project)
        return self._report.results

    def _check_machine(self) -> None:
        report, settings = self._report, self._settings
        report.run_check(
            "home", partial(machine_checks.check_home, settings), machine_checks.HOME_FIX
        )
        report.run_check(
            "disk",
            partial(machine_checks.check_disk, settings, self._free_bytes),
            machine_checks.HOME_FIX,
        )
        report.run_check(
            "Modal",
            partial(machine_checks.check_modal, settings),
            machine_checks.MODAL_TOKEN_FIX,
            2 * CHECK_TIMEOUT_SECONDS,
        )

    def _check_label_studio(self, project: str) -> LabelStudioClient | None:
        """Label Studio, by a client that is let in; None where there is none."""
        report, server = self._report, self._settings.label_studio_url
        fix = "start Label Studio, or set LABEL_STUDIO_URL to its address"
        service = report.run(
            "Label Studio", partial(identify_label_studio, server), fix, 3 * CHECK_TIMEOUT_SECONDS
        )
        if service is None:
            return None
        report.add(label_studio_checks.check_address(server, service))
        if not service.is_expected:
            return None
        report.add(label_studio_checks.check_version(service))
        token, is_from_setup = self._find_token(project)
        client = _create_client(server, token)
        is_allowed = report.run_check(
            "token",
            partial(label_studio_checks.check_token, client, token, is_from_setup),
            RESTART_FIX,
            2 * CHECK_TIMEOUT_SECONDS,
        )
        return client if is_allowed and isinstance(client, LabelStudioClient) else None

    def _check_projects(self, client: LabelStudioClient, project_name: str) -> None:
        records = self._project_records()
        if not project_name and not records:
            self._check_without_project(client)
        if not project_name:
            for record in records:
                self._check_project(client, record.number, record)
            return
        matches = [r for r in records if project_name in (r.id, str(r.number), r.title)]
        if matches:
            self._check_project(client, matches[0].number, matches[0])
            return
        fix = "give its number: `prelabel doctor NUMBER`"
        number = self._report.run("project", partial(_find_number, client, project_name), fix)
        if number is not None:
            self._check_project(client, number, None)

    def _check_project(
        self, client: LabelStudioClient, number: int, record: ProjectRecord | None
    ) -> None:
        report = self._report.for_project(number)
        ProjectChecker(self._resources, self._backend_address(), report).run(client, number, record)

    def _check_without_project(self, client: LabelStudioClient) -> None:
        report, address = self._report, self._backend_address()
        report.add(unchecked("project", "none is connected yet: `prelabel connect PROJECT`"))
        check_ssrf_protection(report, client, address.url)
        report.run_check(
            "backend", partial(project_checks.check_backend, address.url, address.auth), RESTART_FIX
        )
        check_networks(report, self._resources, [self._settings.encoder], None)

    def _find_token(self, project_name: str) -> tuple[str, bool]:
        """The token of the settings, else one that Label Studio handed over."""
        if self._settings.api_key:
            return self._settings.api_key, False
        for record in self._project_records():
            token = self._resources.projects.token(record.id)
            if token and project_name in ("", record.id, str(record.number), record.title):
                return token, True
        return "", False

    def _project_records(self) -> Sequence[ProjectRecord]:
        """The projects of this home folder that belong to this Label Studio."""
        server = self._settings.label_studio_url
        try:
            records = self._resources.projects.all()
        except StoreError:  # the line about the home folder tells
            return []
        local_records = [r for r in records if not r.server or is_same_server(r.server, server)]
        return local_records or records  # inside and outside of a container it has two addresses

    def _backend_address(self) -> BackendAddress:
        """Where the backend should be, with the webhooks' secret where auth is on."""
        settings = self._settings
        if not settings.user:
            return BackendAddress(self._backend, None)
        try:
            secret = f"/{load_webhook_secret(settings.home)}"
        except StoreError:
            secret = ""
        return BackendAddress(self._backend + secret, (settings.user, settings.password))


def _create_client(server: str, token: str) -> LabelStudioClient | AccessDeniedError:
    try:
        return LabelStudioClient(server, token, CLIENT_TIMEOUT_SECONDS)
    except AccessDeniedError as error:
        return error


def _find_number(client: LabelStudioClient, project_name: str) -> int:
    if project_name.isdigit():
        return int(client.get_project(int(project_name))["id"])
    matches = [row["id"] for row in client.list_projects() if row["title"] == project_name]
    if len(matches) != 1:
        raise NotFoundError(f"{client.server} has {len(matches)} projects {project_name!r}.")
    return int(matches[0])
