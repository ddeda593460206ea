"""Run all checks in order: the machine, Label Studio, then each project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from backend.doctor import image_checks, label_studio_checks, machine_checks, project_checks
from backend.doctor.check import (
    CHECK_TIMEOUT_SECONDS,
    Check,
    CheckReport,
    CheckResult,
    passed,
    unchecked,
)
from backend.doctor.contexts import CheckedProject, LabelStudioSetup, MeasureFree, Setup
from backend.errors import AccessDeniedError, LabelStudioError, StoreError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.diagnostics import identify_label_studio
from backend.label_studio.project_names import match_projects
from backend.runtime.connection import connect
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from backend.store.servers import is_same_server
from backend.store.webhook_secret import load_webhook_secret

CLIENT_TIMEOUT_SECONDS = 8.0
"""Time limit for one request to Label Studio."""
SLOW_TIMEOUT_SECONDS = 60.0
"""Time limit for checks that load networks or read long lists."""
LABEL_STUDIO_FIX = "check whether Label Studio is overloaded, and restart it"
MACHINE_CHECKS: tuple[Check[Setup], ...] = (
    Check("home", machine_checks.check_home, machine_checks.HOME_FIX),
    Check("disk", machine_checks.check_disk, machine_checks.HOME_FIX),
    Check(
        "Modal",
        machine_checks.check_modal,
        machine_checks.MODAL_TOKEN_FIX,
        2 * CHECK_TIMEOUT_SECONDS,
    ),
)
BACKEND_CHECKS: tuple[Check[LabelStudioSetup], ...] = (
    Check("SSRF", label_studio_checks.check_ssrf, LABEL_STUDIO_FIX, 2 * CHECK_TIMEOUT_SECONDS),
    Check("backend", project_checks.check_backend, "restart `prelabel serve`"),
)
MODEL_CHECKS: tuple[Check[LabelStudioSetup], ...] = (
    Check(
        "encoder", machine_checks.check_encoders, machine_checks.ENCODER_FIX, SLOW_TIMEOUT_SECONDS
    ),
    Check(
        "detector",
        machine_checks.check_detector,
        machine_checks.DETECTOR_FIX,
        SLOW_TIMEOUT_SECONDS,
    ),
)
PROJECT_CHECKS: tuple[Check[CheckedProject], ...] = (
    Check("labeling config", project_checks.check_labeling_config, project_checks.CONFIG_FIX),
    *BACKEND_CHECKS,
    Check(
        "connection",
        project_checks.check_connection,
        LABEL_STUDIO_FIX,
        3 * CHECK_TIMEOUT_SECONDS,
    ),
    Check(
        "webhook",
        project_checks.check_webhooks,
        project_checks.WEBHOOK_SETTINGS,
        2 * CHECK_TIMEOUT_SECONDS,
    ),
    Check("model version", project_checks.check_model_version, LABEL_STUDIO_FIX),
    Check("files", project_checks.check_files, project_checks.FILES_FIX),
    Check("sampling", project_checks.check_sampling, LABEL_STUDIO_FIX),
    Check("pre-annotation", project_checks.check_preannotations, LABEL_STUDIO_FIX),
    Check("Data Manager", project_checks.check_tabs, LABEL_STUDIO_FIX),
    Check("weights", machine_checks.check_weights, "run `prelabel train`", SLOW_TIMEOUT_SECONDS),
    *MODEL_CHECKS,
    Check("image", image_checks.check_images, LABEL_STUDIO_FIX, SLOW_TIMEOUT_SECONDS),
    Check(
        "coordinates",
        image_checks.check_coordinates,
        LABEL_STUDIO_FIX,
        2 * CHECK_TIMEOUT_SECONDS,
    ),
)


class Doctor:
    """Checks a setup.

    Args:
        settings: settings, the same as for ``prelabel serve``.
        backend: address at which Label Studio reaches the backend.
        on_result: called immediately with each result.
        measure_free: measures disk space.
    """

    def __init__(
        self,
        settings: Settings,
        backend: str,
        on_result: Callable[[CheckResult], None] = lambda result: None,
        measure_free: MeasureFree = machine_checks.free_bytes,
    ) -> None:
        self._settings = settings
        self._resources = Resources(settings)
        self._report = CheckReport(on_result)
        auth = (settings.user, settings.password) if settings.user else None
        url = backend.rstrip("/") + self._secret_path()
        self._setup = Setup(self._resources, url, auth, measure_free)

    def run(self, project: str = "") -> list[CheckResult]:
        """Run all checks.

        Args:
            project: id, number or title of a project; "" for all connected projects.

        Returns:
            the results in order.
        """
        self._report.run_checks(MACHINE_CHECKS, self._setup)
        client = self._check_label_studio(project)
        if client is not None:
            self._check_projects(client, project)
        return self._report.results

    def _check_label_studio(self, project: str) -> LabelStudioClient | None:
        """Check Label Studio and the token; return a client if both checks pass."""
        report, server = self._report, self._settings.label_studio_url
        service = report.load(
            "Label Studio",
            partial(identify_label_studio, server),
            label_studio_checks.ADDRESS_FIX,
            3 * CHECK_TIMEOUT_SECONDS,
        )
        if service is None:
            return None
        report.add(label_studio_checks.check_address(server, service))
        if not service.is_expected:
            return None
        report.add(label_studio_checks.check_version(service))
        token, is_from_setup = self._find_token(project)
        client = _create_client(server, token)
        check_token = partial(
            label_studio_checks.check_token, token_text=token, is_from_setup=is_from_setup
        )
        check = Check("token", check_token, LABEL_STUDIO_FIX, 2 * CHECK_TIMEOUT_SECONDS)
        is_accepted = report.run_check(check, client)
        return client if is_accepted and isinstance(client, LabelStudioClient) else None

    def _check_projects(self, client: LabelStudioClient, project: str) -> None:
        records = self._project_records()
        if not project and not records:
            self._report.add(
                unchecked("project", "none is connected yet: run `prelabel connect PROJECT`")
            )
            checks = (*BACKEND_CHECKS, *MODEL_CHECKS)
            self._report.run_checks(checks, LabelStudioSetup(self._setup, client))
            return
        matches = _match_records(project, records)
        for record in matches if not project else matches[:1]:
            self._check_project(client, record.number, record)
        if matches:
            return
        fix = "use its number: `prelabel doctor NUMBER`"
        find_number = partial(client.find_project_number, project)
        number = self._report.load("project", find_number, fix, CHECK_TIMEOUT_SECONDS)
        if number is not None:
            self._check_project(client, number, None)

    def _check_project(
        self, client: LabelStudioClient, number: int, record: ProjectRecord | None
    ) -> None:
        report = self._report.for_project(number)
        fix = "choose another project, or connect it: `prelabel connect PROJECT`"
        load_project = partial(self._load_project, client, number, record)
        project = report.load("project", load_project, fix, 2 * CHECK_TIMEOUT_SECONDS)
        if project is None:
            return
        report.add(passed("project", f"{number}, “{project.details.get('title')}”"))
        list_backends = partial(project.client.list_backends, number)
        connections = report.load(
            "connection", list_backends, LABEL_STUDIO_FIX, 4 * CHECK_TIMEOUT_SECONDS
        )
        report.run_checks(PROJECT_CHECKS, replace(project, connections=connections))

    def _load_project(
        self, client: LabelStudioClient, number: int, record: ProjectRecord | None
    ) -> CheckedProject:
        live_version = ""
        if record is not None:
            token = self._resources.projects.token(record.id)
            try:
                client = connect(record, token, self._settings).client
            except LabelStudioError:
                client.get_project(number)  # usually raises the same error
            live_version = self._resources.versions(record).live() or ""
        details = client.get_project(number)
        return CheckedProject(self._setup, client, number, details, record, live_version)

    def _find_token(self, project: str) -> tuple[str, bool]:
        """Return the token, and whether Label Studio sent it to ``/setup``."""
        if self._settings.api_key:
            return self._settings.api_key, False
        for record in _match_records(project, self._project_records()):
            if token := self._resources.projects.token(record.id):
                return token, True
        return "", False

    def _project_records(self) -> Sequence[ProjectRecord]:
        """Return the connected projects on this Label Studio."""
        server = self._settings.label_studio_url
        try:
            records = self._resources.projects.all()
        except StoreError:  # reported by the check of the home folder
            return []
        own_records = [r for r in records if not r.server or is_same_server(r.server, server)]
        return own_records or records  # its address may differ between a container and its host

    def _secret_path(self) -> str:
        """Return the webhook secret as a URL path; "" without basic auth."""
        try:
            secret = load_webhook_secret(self._settings.home) if self._settings.user else ""
        except StoreError:  # reported by the check of the home folder
            secret = ""
        return f"/{secret}" if secret else ""


def _match_records(project: str, records: Sequence[ProjectRecord]) -> list[ProjectRecord]:
    return match_projects(project, {r: (r.id, str(r.number), r.title) for r in records})


def _create_client(server: str, token: str) -> LabelStudioClient | AccessDeniedError:
    try:
        return LabelStudioClient(server, token, CLIENT_TIMEOUT_SECONDS)
    except AccessDeniedError as error:
        return error
