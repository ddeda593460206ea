"""One project: connected both ways, pointed at the live version, and with images that open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from backend.doctor.check_result import CheckResult, failed, passed, unchecked
from backend.doctor.label_studio_checks import strip_url_secrets
from backend.errors import ConfigError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.diagnostics import (
    Diagnostics,
    identify_backend,
    is_listening,
    send_test_event,
)
from backend.label_studio.labeling_config import LabelingConfig, read_config
from backend.label_studio.ml_protocol import MODEL_CLASS, accepts_webhooks
from backend.loop.publish.push import UNCERTAINTY_SAMPLING
from backend.store.projects import ProjectRecord

CONNECTED_STATE, DISCONNECTED_STATE = "CO", "DI"
REQUIRED_EVENTS = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"}
)
EDIT_FIX = "in Label Studio, project → Settings → Model → ⋮ → Edit, set the URL to {url}"
DOTLESS_HOST_FIX = (
    "Label Studio takes none for a name without a dot: connect the backend by its IP address, or "
    "by a name with a dot, such as prelabel.internal"
)
WEBHOOK_SETTINGS = "in Label Studio, project → Settings → Webhooks"
CONFIG_FIX = (
    "in Label Studio, project → Settings → Labeling Interface, add Choices, RectangleLabels or "
    "KeyPointLabels for an Image; label_config/ has some to paste"
)


@dataclass(frozen=True)
class CheckedProject:
    """A project that is looked at.

    Attributes:
        number: Label Studio's.
        client: with a token that works.
        details: the project as Label Studio tells of it.
        record: as the home folder knows it; None where it does not.
        live_version: its live version there; empty without.
    """

    number: int
    client: LabelStudioClient
    details: Mapping[str, Any]
    record: ProjectRecord | None
    live_version: str

    @property
    def diagnostics(self) -> Diagnostics:
        """Questions to its Label Studio."""
        return Diagnostics(self.client)

    def labeling_config(self) -> LabelingConfig:
        """Its labeling config.

        Raises:
            ConfigError: it is no XML.
        """
        return read_config(str(self.details.get("label_config") or ""))


@dataclass(frozen=True)
class BackendConnection:
    """How a project is connected.

    Attributes:
        url: the backend's, as Label Studio calls it; may hold the webhooks' secret.
        state: what Label Studio found when it called just now.
        error: what it said then.
    """

    url: str
    state: str
    error: str


def list_connections(checked_project: CheckedProject) -> list[BackendConnection]:
    """The connections, which Label Studio tries while it is asked; it uses the first."""
    return [
        BackendConnection(
            str(row["url"]).rstrip("/"), str(row["state"]), str(row.get("error_message") or "")
        )
        for row in checked_project.client.list_backends(checked_project.number)
    ]


def check_labeling_config(checked_project: CheckedProject) -> list[CheckResult]:
    """Whether the labeling config has something that is served."""
    check = "labeling config"
    try:
        config = checked_project.labeling_config()
    except ConfigError as error:
        return [failed(check, str(error), CONFIG_FIX)]
    unserved = [
        unchecked(check, f"{name} is not served ({why})") for name, why in config.unserved.items()
    ]
    if not config.controls:
        return [*unserved, failed(check, "there is no control that Prelabel serves", CONFIG_FIX)]
    served_text = ", ".join(f"{c.name} ({c.kind}, {len(c.labels)} labels)" for c in config.controls)
    return [passed(check, served_text), *unserved]


def check_backend(url: str, auth: tuple[str, str] | None) -> CheckResult:
    """Whether the backend answers, asked from here."""
    check, service = "backend", identify_backend(url, auth)
    if service.is_expected:
        return passed(check, f"{service.description} answers at {strip_url_secrets(url)}")
    if service.description:
        fix = "set PRELABEL_USER and PRELABEL_PASSWORD as where `prelabel serve` runs"
        if "auth" not in service.description:
            fix = f"stop what listens there, or start `prelabel serve --port {_url_port(url) + 1}`"
        return failed(check, f"at {strip_url_secrets(url)} there is {service.description}", fix)
    return failed(
        check, f"nothing answers at {strip_url_secrets(url)} ({service.error})", _serve_command(url)
    )


def check_connection(
    checked_project: CheckedProject,
    connections: Sequence[BackendConnection],
    expected_url: str,
    auth: tuple[str, str] | None,
) -> CheckResult:
    """Whether Label Studio reaches the backend.

    Args:
        checked_project: the project.
        connections: its connections; Label Studio uses the first.
        expected_url: where the backend should be.
        auth: for it.
    """
    check = "connection"
    if not connections:
        fix = f"`prelabel connect {checked_project.number} --backend {_base_url(expected_url)}`"
        return failed(check, "the project has no ML backend", fix)
    active_connection = connections[0]
    active_url = strip_url_secrets(active_connection.url)
    if active_connection.state == DISCONNECTED_STATE:
        return failed(
            check,
            f"Label Studio does not reach {active_url}",
            _connection_fix(active_connection, expected_url, auth),
        )
    if active_connection.state != CONNECTED_STATE:
        fix = "see what `prelabel serve` says; mostly PRELABEL_ALLOWED_SERVERS or its home folder"
        reason = active_connection.error or active_connection.state
        return failed(check, f"Label Studio reaches {active_url}, which refuses ({reason})", fix)
    return _check_other_connections(connections[1:], auth) or passed(
        check, f"Label Studio reaches {active_url}"
    )


def _check_other_connections(
    other_connections: Sequence[BackendConnection], auth: tuple[str, str] | None
) -> CheckResult | None:
    """What is wrong with further connections, which Label Studio asks nothing, but tells of labels.

    Another kind of backend, which only draws on demand, does no harm; None where nothing does.
    """
    for other in other_connections:
        other_url = strip_url_secrets(other.url)
        fix = f"in Label Studio, project → Settings → Model → {other_url} → ⋮ → Delete"
        if other.state == DISCONNECTED_STATE:
            return failed(
                "connection", f"a second one leads to {other_url}, which is not reached", fix
            )
        if identify_backend(other.url, auth).description == MODEL_CLASS:
            message = f"a second Prelabel at {other_url} learns too, and both set the queue"
            return failed("connection", message, fix)
    return None


def check_webhooks(
    checked_project: CheckedProject, active_connection: BackendConnection, is_answering: bool
) -> list[CheckResult]:
    """Whether the backend hears of labels, and what else does.

    Args:
        checked_project: the project.
        active_connection: how it is connected.
        is_answering: the backend does.
    """
    hooks = checked_project.diagnostics.list_webhooks(checked_project.number)
    own_result, url = (
        _check_own_webhook(checked_project, active_connection, hooks, is_answering),
        f"{active_connection.url}/webhook",
    )
    other_urls = {str(h["url"]) for h in hooks if h["is_active"] and h["url"].rstrip("/") != url}
    return [
        own_result,
        *(_report_stale_webhook(other) for other in sorted(other_urls) if _is_dead_webhook(other)),
    ]


def _is_dead_webhook(url: str) -> bool:
    """Whether a webhook leads to a backend that is gone; of others it is not ours to say."""
    return url.rstrip("/").endswith("/webhook") and not is_listening(url)


def _report_stale_webhook(url: str) -> CheckResult:
    webhook_url = f"{strip_url_secrets(url.rstrip('/').removesuffix('/webhook'))}/webhook"
    message = f"another one tells {webhook_url} of every label, and nothing answers there"
    return failed("webhook", message, f"{WEBHOOK_SETTINGS} → {webhook_url}: delete it")


def _check_own_webhook(
    checked_project: CheckedProject,
    active_connection: BackendConnection,
    hooks: Sequence[Mapping[str, Any]],
    is_answering: bool,
) -> CheckResult:
    """Whether the backend hears of labels.

    Args:
        checked_project: the project.
        active_connection: how it is connected.
        hooks: all of the project.
        is_answering: the backend does.
    """
    check, url = "webhook", f"{active_connection.url}/webhook"
    hooks = [hook for hook in hooks if hook["url"].rstrip("/") == url]
    webhook_url = f"{strip_url_secrets(active_connection.url)}/webhook"
    if not hooks:
        fix = f"{WEBHOOK_SETTINGS} → Add Webhook, {webhook_url}, all events"
        if _has_secret(active_connection.url):
            fix += " (the address is the one that `prelabel serve` prints)"
        if not accepts_webhooks(active_connection.url):
            fix = DOTLESS_HOST_FIX
        return failed(check, f"none goes to {webhook_url}", fix)
    active = [hook for hook in hooks if hook["is_active"]]
    if not active:
        return failed(check, "it is turned off", f"{WEBHOOK_SETTINGS} → {webhook_url}: turn it on")
    if not any(h["send_for_all_actions"] or set(h["actions"]) >= REQUIRED_EVENTS for h in active):
        return failed(
            check,
            "it does not tell of labels",
            f"{WEBHOOK_SETTINGS} → {webhook_url}: send all events",
        )
    if not is_answering:
        return unchecked(check, "there and on; not tried, the backend does not answer")
    status = send_test_event(url, checked_project.number)
    if status in (401, 403):
        fix = f"{EDIT_FIX.format(url='the address that `prelabel serve` prints')}, and the webhook too"
        return failed(check, "the backend refuses it: its address lacks the secret", fix)
    if status != 200:
        message = (
            f"the backend answers it with {status}" if status else "the backend does not answer"
        )
        return failed(check, message, _serve_command(active_connection.url))
    return passed(
        check, "there, on, and accepted when sent from here (the switches tell what they let out)"
    )


def check_model_version(checked_project: CheckedProject, is_connected: bool) -> CheckResult:
    """Whether the project is pointed at the live version.

    Args:
        checked_project: the project.
        is_connected: Label Studio has a connection of it.
    """
    check, model_version = "model version", str(checked_project.details.get("model_version") or "")
    if checked_project.record is None and is_connected:
        fix = (
            "set PRELABEL_HOME as where `prelabel serve` runs; if it is, restart `prelabel serve` "
            "and open the project's page Settings → Model"
        )
        return failed(check, "this PRELABEL_HOME does not know the project", fix)
    if checked_project.record is None:
        return unchecked(check, f"{model_version or 'none'}; the project is not connected")
    fix = f"`prelabel train {checked_project.number}`"
    if not checked_project.live_version:
        return failed(check, "there is no version yet", fix)
    if model_version != checked_project.live_version and not _count_open_tasks(checked_project):
        return unchecked(
            check, f"{model_version or 'none'}; no task is open that a queue could hand out"
        )
    if model_version != checked_project.live_version:
        return failed(
            check,
            f"the queue follows {model_version or 'nothing'}, not {checked_project.live_version}",
            fix,
        )
    count = checked_project.client.prediction_counts(checked_project.number).get(model_version, 0)
    return passed(check, f"the queue follows {model_version}, with predictions: {count}")


def check_sampling(checked_project: CheckedProject) -> CheckResult:
    """Whether the next task is the one that teaches most."""
    check, sampling_name = "sampling", str(checked_project.details.get("sampling") or "")
    if sampling_name == UNCERTAINTY_SAMPLING:
        return passed(check, sampling_name)
    fix = (
        f"in Label Studio, project → Settings → General → Task Sampling: {UNCERTAINTY_SAMPLING}; "
        f"`prelabel train {checked_project.number}` sets it too"
    )
    return failed(check, f"the project uses {sampling_name}", fix)


def check_preannotations(checked_project: CheckedProject) -> CheckResult:
    """Whether people see predictions when they open a task."""
    check = "pre-annotation"
    if checked_project.details.get("show_collab_predictions"):
        return passed(check, "predictions are shown when a task is opened")
    setting_path = (
        "in Label Studio, project → Settings → Annotation → Use predictions to prelabel tasks"
    )
    return failed(
        check, "people do not see predictions when they open a task", f"turn on {setting_path}"
    )


def _count_open_tasks(checked_project: CheckedProject) -> int:
    task_count = int(checked_project.details.get("task_number") or 0)
    return task_count - int(checked_project.details.get("num_tasks_with_annotations") or 0)


def _connection_fix(
    active_connection: BackendConnection, expected_url: str, auth: tuple[str, str] | None
) -> str:
    """What cures a connection that Label Studio cannot use."""
    service, host = (
        identify_backend(active_connection.url, auth),
        urlsplit(active_connection.url).hostname or "",
    )
    if service.is_expected or "auth" in service.description:
        return (
            f"{host} means another machine there, or a firewall is between: start `prelabel serve "
            f"--host 0.0.0.0`, and {EDIT_FIX.format(url='an address that Label Studio can reach')}"
        )
    if (
        strip_url_secrets(expected_url) != strip_url_secrets(active_connection.url)
        and identify_backend(expected_url, auth).is_expected
    ):
        return EDIT_FIX.format(url=_url_for_fix(expected_url))
    return _serve_command(active_connection.url)


def _url_for_fix(url: str) -> str:
    return "the address that `prelabel serve` prints" if _has_secret(url) else url


def _base_url(url: str) -> str:
    """An address as `prelabel connect` wants it, which adds the secret itself."""
    return strip_url_secrets(url).removesuffix("/…")


def _serve_command(url: str) -> str:
    return f"`prelabel serve --port {_url_port(url)}`"


def _url_port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _has_secret(url: str) -> bool:
    return bool(urlsplit(url).path.strip("/"))
