"""One project from its labeling config to its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from backend.doctor import image_checks, label_studio_checks, machine_checks, project_checks
from backend.doctor.check_report import QUICK, Report
from backend.doctor.check_result import Line, good, unknown
from backend.doctor.image_checks import Read, Sample
from backend.doctor.project_checks import Link, Subject
from backend.domain import Control
from backend.errors import ConfigError, LabelStudioError
from backend.label_studio.client import Client
from backend.runtime.connection import connect
from backend.runtime.resources import Resources
from backend.store.projects import ProjectRecord

SLOW = 60.0
"""Seconds for what reads networks or long lists."""
SLEEPY = "see whether Label Studio is busy or hangs, and restart it"


@dataclass(frozen=True)
class Place:
    """Where the backend should be.

    Attributes:
        url: as Label Studio calls it, with the webhooks' secret where there is one.
        auth: for it.
    """

    url: str
    auth: tuple[str, str] | None


class Examination:
    """Looks at one project.

    Args:
        resources: of this process.
        place: of the backend.
        report: that grows.
    """

    def __init__(self, resources: Resources, place: Place, report: Report) -> None:
        self._resources = resources
        self._place = place
        self._report = report

    def examine(self, client: Client, number: int, record: ProjectRecord | None) -> None:
        """Everything.

        Args:
            client: that is let in.
            number: the project's in Label Studio.
            record: as the home folder knows it; None where it does not.
        """
        cure = "name another project, or connect it: `prelabel connect PROJECT`"
        find = partial(self._subject, client, number, record)
        subject = self._report.ask("project", find, cure, 2 * QUICK)
        if subject is None:
            return
        self._report.add(good("project", f"{number}, “{subject.about.get('title')}”"))
        self._report.look(
            "labeling config", partial(project_checks.controls, subject), project_checks.CONFIG
        )
        connected = self._way(subject)
        work = partial(project_checks.follows, subject, connected)
        self._report.look("model version", work, SLEEPY)
        self._report.add(project_checks.sampling(subject), project_checks.shown(subject))
        controls = _controls(subject)
        self._networks(subject, controls)
        if controls:
            self._images(subject)

    def _subject(self, client: Client, number: int, record: ProjectRecord | None) -> Subject:
        if record is None:
            return Subject(number, client, client.project(number), None, "")
        token = self._resources.projects.token(record.id)
        try:
            client = connect(record, token, self._resources.settings).client
        except LabelStudioError:
            client.project(number)  # mostly the same failure again, with the token of the settings
        live = self._resources.versions(record).live() or ""
        return Subject(number, client, client.project(number), record, live)

    def _way(self, subject: Subject) -> bool:
        """The way between backend and Label Studio, in both directions; whether there is one."""
        report, place = self._report, self._place
        links = report.ask("connection", partial(project_checks.links, subject), SLEEPY, 4 * QUICK)
        joined = links[0] if links else None
        protect(report, subject.client, joined.url if joined else place.url)
        answers = report.look(
            "backend",
            partial(project_checks.backend, joined.url if joined else place.url, place.auth),
            "restart `prelabel serve`",
        )
        if links is not None:
            work = partial(project_checks.connection, subject, links, place.url, place.auth)
            report.look("connection", work, SLEEPY, 3 * QUICK)
        self._webhook(subject, joined, answers)
        return joined is not None

    def _webhook(self, subject: Subject, joined: Link | None, answers: bool) -> None:
        if joined is None:
            self._report.add(unknown("webhook", "not looked at: there is no connection"))
        else:
            work = partial(project_checks.webhook, subject, joined, answers)
            self._report.look("webhook", work, project_checks.HOOKS, 2 * QUICK)

    def _networks(self, subject: Subject, controls: tuple[Control, ...]) -> None:
        """The live version, and what the next one is made with."""
        resources, settings = self._resources, [self._resources.settings.encoder]
        record, live = subject.record, subject.live
        if record is not None and live:
            work = partial(machine_checks.weights, resources, record, live)
            self._report.look("weights", work, f"`prelabel train {record.id}`", SLOW)
            made_by = resources.versions(record).card(live).encoder.get("setting", "")
            auto = settings == ["auto"]  # finds something else where that cannot be had
            settings = [made_by or "auto"] if auto else [*settings, *([made_by] if made_by else [])]
        networks(self._report, resources, settings, controls)

    def _images(self, subject: Subject) -> None:
        report = self._report
        found = report.ask("image", partial(image_checks.samples, subject), SLEEPY, SLOW)
        if found is None:
            return
        if not found:
            report.add(image_checks.no_images())
        opened = [read for sample in found if (read := self._image(subject, sample))]
        if opened:
            work = partial(image_checks.coordinates, subject, opened[0])
            report.look("coordinates", work, SLEEPY, 2 * QUICK)

    def _image(self, subject: Subject, sample: Sample) -> Read | None:
        check, cure = f"image ({sample.storage})", image_checks.CURES[sample.storage]
        work = partial(image_checks.look, subject, self._resources.settings, sample)
        found: tuple[Line, Read | None] | None
        found = self._report.ask(check, work, cure, 2 * image_checks.SECONDS)
        if found is None:
            return None
        self._report.add(found[0])
        return found[1]


def protect(report: Report, client: Client, url: str) -> None:
    """Whether Label Studio may call the backend."""
    report.look("SSRF", partial(label_studio_checks.protection, client, url), SLEEPY, 2 * QUICK)


def networks(
    report: Report,
    resources: Resources,
    settings: Sequence[str],
    controls: tuple[Control, ...] | None,
) -> None:
    """What versions are made with.

    Args:
        report: that grows.
        resources: of this process.
        settings: of the encoder: the next version's, and the live one's where it is another.
        controls: of the project; None where none is looked at.
    """
    kinds = {control.kind == "choices" for control in controls or ()}
    if controls is None or True in kinds:
        for setting in dict.fromkeys(settings):
            work = partial(machine_checks.encoder, resources, setting)
            report.look("encoder", work, machine_checks.ENCODERS, SLOW)
    if controls is None or False in kinds:
        report.look(
            "detector", partial(machine_checks.detector, resources), machine_checks.DETECTORS, SLOW
        )


def _controls(subject: Subject) -> tuple[Control, ...]:
    try:
        return subject.config().controls
    except ConfigError:
        return ()
