"""One project from its labeling config to its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from backend.doctor import image_checks, label_studio_checks, machine_checks, project_checks
from backend.doctor.check_report import CHECK_TIMEOUT_SECONDS, CheckReport
from backend.doctor.check_result import CheckResult, passed, unchecked
from backend.doctor.image_checks import ImageSample, OpenedImage
from backend.doctor.project_checks import BackendConnection, CheckedProject
from backend.domain import Control
from backend.errors import ConfigError, LabelStudioError
from backend.label_studio.client import LabelStudioClient
from backend.runtime.connection import connect
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord

SLOW_TIMEOUT_SECONDS = 60.0
"""Seconds for what reads networks or long lists."""
RESTART_FIX = "see whether Label Studio is busy or hangs, and restart it"


@dataclass(frozen=True)
class BackendAddress:
    """Where the backend should be.

    Attributes:
        url: as Label Studio calls it, with the webhooks' secret where there is one.
        auth: for it.
    """

    url: str
    auth: tuple[str, str] | None


class ProjectChecker:
    """Looks at one project.

    Args:
        resources: of this process.
        address: of the backend.
        report: that grows.
    """

    def __init__(self, resources: Resources, address: BackendAddress, report: CheckReport) -> None:
        self._resources = resources
        self._address = address
        self._report = report

    def run(self, client: LabelStudioClient, number: int, record: ProjectRecord | None) -> None:
        """Everything.

        Args:
            client: that is let in.
            number: the project's in Label Studio.
            record: as the home folder knows it; None where it does not.
        """
        fix = "name another project, or connect it: `prelabel connect PROJECT`"
        load_project = partial(self._load_project, client, number, record)
        checked_project = self._report.run("project", load_project, fix, 2 * CHECK_TIMEOUT_SECONDS)
        if checked_project is None:
            return
        self._report.add(passed("project", f"{number}, “{checked_project.details.get('title')}”"))
        self._report.run_check(
            "labeling config",
            partial(project_checks.check_labeling_config, checked_project),
            project_checks.CONFIG_FIX,
        )
        is_connected = self._check_connection(checked_project)
        check_function = partial(project_checks.check_model_version, checked_project, is_connected)
        self._report.run_check("model version", check_function, RESTART_FIX)
        self._report.add(
            project_checks.check_sampling(checked_project),
            project_checks.check_preannotations(checked_project),
        )
        controls = _read_controls(checked_project)
        self._check_model(checked_project, controls)
        if controls:
            self._check_images(checked_project)

    def _load_project(
        self, client: LabelStudioClient, number: int, record: ProjectRecord | None
    ) -> CheckedProject:
        if record is None:
            return CheckedProject(number, client, client.get_project(number), None, "")
        token = self._resources.projects.token(record.id)
        try:
            client = connect(record, token, self._resources.settings).client
        except LabelStudioError:
            client.get_project(
                number
            )  # mostly the same failure again, with the token of the settings
        live = self._resources.versions(record).live() or ""
        return CheckedProject(number, client, client.get_project(number), record, live)

    def _check_connection(self, checked_project: CheckedProject) -> bool:
        """The way between backend and Label Studio, in both directions; whether there is one."""
        report, address = self._report, self._address
        connections = report.run(
            "connection",
            partial(project_checks.list_connections, checked_project),
            RESTART_FIX,
            4 * CHECK_TIMEOUT_SECONDS,
        )
        active_connection = connections[0] if connections else None
        check_ssrf_protection(
            report,
            checked_project.client,
            active_connection.url if active_connection else address.url,
        )
        is_answering = report.run_check(
            "backend",
            partial(
                project_checks.check_backend,
                active_connection.url if active_connection else address.url,
                address.auth,
            ),
            "restart `prelabel serve`",
        )
        if connections is not None:
            check_function = partial(
                project_checks.check_connection,
                checked_project,
                connections,
                address.url,
                address.auth,
            )
            report.run_check("connection", check_function, RESTART_FIX, 3 * CHECK_TIMEOUT_SECONDS)
        self._check_webhook(checked_project, active_connection, is_answering)
        return active_connection is not None

    def _check_webhook(
        self,
        checked_project: CheckedProject,
        active_connection: BackendConnection | None,
        is_answering: bool,
    ) -> None:
        if active_connection is None:
            self._report.add(unchecked("webhook", "not looked at: there is no connection"))
        else:
            check_function = partial(
                project_checks.check_webhooks, checked_project, active_connection, is_answering
            )
            self._report.run_check(
                "webhook",
                check_function,
                project_checks.WEBHOOK_SETTINGS,
                2 * CHECK_TIMEOUT_SECONDS,
            )

    def _check_model(self, checked_project: CheckedProject, controls: tuple[Control, ...]) -> None:
        """The live version, and what the next one is made with."""
        resources, encoder_settings = self._resources, [self._resources.settings.encoder]
        record, live_version = checked_project.record, checked_project.live_version
        if record is not None and live_version:
            check_function = partial(machine_checks.check_weights, resources, record, live_version)
            self._report.run_check(
                "weights", check_function, f"`prelabel train {record.id}`", SLOW_TIMEOUT_SECONDS
            )
            live_encoder = resources.versions(record).card(live_version).encoder.setting
            is_auto = encoder_settings == ["auto"]  # finds something else where that cannot be had
            encoder_settings = (
                [live_encoder or "auto"]
                if is_auto
                else [*encoder_settings, *([live_encoder] if live_encoder else [])]
            )
        check_networks(self._report, resources, encoder_settings, controls)

    def _check_images(self, checked_project: CheckedProject) -> None:
        report = self._report
        image_samples = report.run(
            "image",
            partial(image_checks.sample_images, checked_project),
            RESTART_FIX,
            SLOW_TIMEOUT_SECONDS,
        )
        if image_samples is None:
            return
        if not image_samples:
            report.add(image_checks.report_no_images())
        opened_images = [
            read for sample in image_samples if (read := self._check_image(checked_project, sample))
        ]
        if opened_images:
            check_function = partial(
                image_checks.check_coordinates, checked_project, opened_images[0]
            )
            report.run_check("coordinates", check_function, RESTART_FIX, 2 * CHECK_TIMEOUT_SECONDS)

    def _check_image(
        self, checked_project: CheckedProject, sample: ImageSample
    ) -> OpenedImage | None:
        check, fix = f"image ({sample.storage})", image_checks.STORAGE_FIXES[sample.storage]
        check_function = partial(
            image_checks.check_image, checked_project, self._resources.settings, sample
        )
        outcome: tuple[CheckResult, OpenedImage | None] | None
        outcome = self._report.run(
            check, check_function, fix, 2 * image_checks.FETCH_TIMEOUT_SECONDS
        )
        if outcome is None:
            return None
        self._report.add(outcome[0])
        return outcome[1]


def check_ssrf_protection(report: CheckReport, client: LabelStudioClient, url: str) -> None:
    """Whether Label Studio may call the backend."""
    report.run_check(
        "SSRF",
        partial(label_studio_checks.check_ssrf, client, url),
        RESTART_FIX,
        2 * CHECK_TIMEOUT_SECONDS,
    )


def check_networks(
    report: CheckReport,
    resources: Resources,
    encoder_settings: Sequence[str],
    controls: tuple[Control, ...] | None,
) -> None:
    """What versions are made with.

    Args:
        report: that grows.
        resources: of this process.
        encoder_settings: of the encoder: the next version's, and the live one's where it is another.
        controls: of the project; None where none is looked at.
    """
    needs_encoder = {control.kind == "choices" for control in controls or ()}
    if controls is None or True in needs_encoder:
        for setting in dict.fromkeys(encoder_settings):
            check_function = partial(machine_checks.check_encoder, resources, setting)
            report.run_check(
                "encoder", check_function, machine_checks.ENCODER_FIX, SLOW_TIMEOUT_SECONDS
            )
    if controls is None or False in needs_encoder:
        report.run_check(
            "detector",
            partial(machine_checks.check_detector, resources),
            machine_checks.DETECTOR_FIX,
            SLOW_TIMEOUT_SECONDS,
        )


def _read_controls(checked_project: CheckedProject) -> tuple[Control, ...]:
    try:
        return checked_project.labeling_config().controls
    except ConfigError:
        return ()
