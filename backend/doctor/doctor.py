"""All checks in their order: what needs nothing first, then Label Studio, then each project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from backend.doctor import label_studio_checks, machine_checks, project_checks
from backend.doctor.check_report import QUICK, Report
from backend.doctor.check_result import Line, unknown
from backend.doctor.machine_checks import Free, free_bytes
from backend.doctor.project_checker import SLEEPY, Examination, Place, networks, protect
from backend.errors import NotAllowed, NotThere, StoreError
from backend.label_studio.client import Client
from backend.label_studio.diagnostics import standing
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from backend.store.servers import same_server
from backend.store.webhook_secret import webhook_secret

CALL = 8.0
"""Seconds that a call of Label Studio may take."""


class Doctor:
    """Looks at a set-up.

    Args:
        settings: as ``prelabel serve`` has them.
        backend: where it listens, as Label Studio reaches it.
        tell: told each line at once.
        free: bytes left on a folder's disk.
    """

    def __init__(
        self,
        settings: Settings,
        backend: str,
        tell: Callable[[Line], None] = lambda line: None,
        free: Free = free_bytes,
    ) -> None:
        self._settings = settings
        self._backend = backend.rstrip("/")
        self._resources = Resources(settings)
        self._report = Report(tell)
        self._free = free

    def examine(self, named: str = "") -> list[Line]:
        """Everything.

        Args:
            named: a project, by number or title; empty: all that this home folder knows.

        Returns:
            the lines of the report, in order.
        """
        self._machine()
        client = self._studio(named)
        if client is not None:
            self._projects(client, named)
        return self._report.lines

    def _machine(self) -> None:
        report, settings = self._report, self._settings
        report.look("home", partial(machine_checks.home, settings), machine_checks.ANOTHER)
        report.look(
            "disk", partial(machine_checks.disk, settings, self._free), machine_checks.ANOTHER
        )
        report.look(
            "Modal", partial(machine_checks.modal, settings), machine_checks.MODAL_TOKEN, 2 * QUICK
        )

    def _studio(self, named: str) -> Client | None:
        """Label Studio, by a client that is let in; None where there is none."""
        report, server = self._report, self._settings.label_studio_url
        cure = "start Label Studio, or set LABEL_STUDIO_URL to its address"
        found = report.ask("Label Studio", partial(standing, server), cure, 3 * QUICK)
        if found is None:
            return None
        report.add(label_studio_checks.address(server, found))
        if not found.answers:
            return None
        report.add(label_studio_checks.version(found))
        text, handed = self._token(named)
        client = _client(server, text)
        let_in = report.look(
            "token", partial(label_studio_checks.token, client, text, handed), SLEEPY, 2 * QUICK
        )
        return client if let_in and isinstance(client, Client) else None

    def _projects(self, client: Client, named: str) -> None:
        records = self._records()
        if not named and not records:
            self._no_project(client)
        if not named:
            for record in records:
                self._one(client, record.number, record)
            return
        fitting = [r for r in records if named in (r.id, str(r.number), r.title)]
        if fitting:
            self._one(client, fitting[0].number, fitting[0])
            return
        cure = "give its number: `prelabel doctor NUMBER`"
        number = self._report.ask("project", partial(_number, client, named), cure)
        if number is not None:
            self._one(client, number, None)

    def _one(self, client: Client, number: int, record: ProjectRecord | None) -> None:
        report = self._report.about(number)
        Examination(self._resources, self._place(), report).examine(client, number, record)

    def _no_project(self, client: Client) -> None:
        report, place = self._report, self._place()
        report.add(unknown("project", "none is connected yet: `prelabel connect PROJECT`"))
        protect(report, client, place.url)
        report.look("backend", partial(project_checks.backend, place.url, place.auth), SLEEPY)
        networks(report, self._resources, [self._settings.encoder], None)

    def _token(self, named: str) -> tuple[str, bool]:
        """The token of the settings, else one that Label Studio handed over."""
        if self._settings.api_key:
            return self._settings.api_key, False
        for record in self._records():
            token = self._resources.projects.token(record.id)
            if token and named in ("", record.id, str(record.number), record.title):
                return token, True
        return "", False

    def _records(self) -> Sequence[ProjectRecord]:
        """The projects of this home folder that belong to this Label Studio."""
        server = self._settings.label_studio_url
        try:
            records = self._resources.projects.all()
        except StoreError:  # the line about the home folder tells
            return []
        here = [r for r in records if not r.server or same_server(r.server, server)]
        return here or records  # inside and outside of a container it has two addresses

    def _place(self) -> Place:
        """Where the backend should be, with the webhooks' secret where auth is on."""
        settings = self._settings
        if not settings.user:
            return Place(self._backend, None)
        try:
            secret = f"/{webhook_secret(settings.home)}"
        except StoreError:
            secret = ""
        return Place(self._backend + secret, (settings.user, settings.password))


def _client(server: str, token: str) -> Client | NotAllowed:
    try:
        return Client(server, token, CALL)
    except NotAllowed as error:
        return error


def _number(client: Client, named: str) -> int:
    if named.isdigit():
        return int(client.project(int(named))["id"])
    found = [row["id"] for row in client.projects() if row["title"] == named]
    if len(found) != 1:
        raise NotThere(f"{client.server} has {len(found)} projects {named!r}.")
    return int(found[0])
