"""Check one project: labeling config, connection, webhook, version, and sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from backend.card_records import TAG_BY_KIND
from backend.doctor.check import CheckResult, failed, passed, unchecked
from backend.doctor.contexts import CheckedProject, LabelStudioSetup
from backend.errors import ConfigError
from backend.label_studio.backend_urls import (
    DOTLESS_HOST_RULE,
    accepts_webhooks,
    strip_url_secrets,
    url_port,
)
from backend.label_studio.client import UNCERTAINTY_SAMPLING
from backend.label_studio.diagnostics import identify_backend, is_listening, send_test_event
from backend.label_studio.ml_protocol import MODEL_CLASS
from backend.label_studio.project_details import BackendConnection
from backend.label_studio.tabs import ProjectTabs
from backend.label_studio.webhooks import Webhook, list_webhooks
from backend.learning.first_labels import describe_first_labels
from backend.store.damaged_files import find_problems
from backend.store.round_state import read_round_state

CONNECTED_STATE, DISCONNECTED_STATE = "CO", "DI"
REQUIRED_EVENTS = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"}
)
PROJECT_SETTINGS = "in Label Studio, project → Settings →"
EDIT_FIX = PROJECT_SETTINGS + " Model → ⋮ → Edit, set the URL to {url}"
PRINTED_URL = "the address that `prelabel serve` prints"
WEBHOOK_SETTINGS = f"{PROJECT_SETTINGS} Webhooks"
FILES_FIX = "restore the file from a backup; without one it is enough to keep Prelabel running"
KEPT_MESSAGE = 'Prelabel leaves it because of model_keep_settings="true"'
CONFIG_FIX = (
    f"{PROJECT_SETTINGS} Labeling Interface, add Choices, RectangleLabels or KeyPointLabels for an "
    "Image; copy one from label_config/"
)


def check_labeling_config(project: CheckedProject) -> Iterator[CheckResult]:
    """Check that the labeling config has a control that Prelabel serves."""
    check = "labeling config"
    try:
        config = project.labeling_config()
    except ConfigError as error:
        yield failed(check, str(error), CONFIG_FIX)
        return
    controls = ", ".join(f"{c.name} ({c.kind}, {len(c.labels)} labels)" for c in config.controls)
    if controls:
        yield passed(check, controls)
    for name, reason in config.unserved.items():
        yield unchecked(check, f"{name} is not served ({reason})")
    if not controls:
        yield failed(check, "there is no control that Prelabel serves", CONFIG_FIX)


def check_backend(target: LabelStudioSetup) -> CheckResult:
    """Check that the backend answers requests from this machine."""
    check, url = "backend", target.backend_url
    address, service = strip_url_secrets(url), identify_backend(url, target.setup.auth)
    if service.is_expected:
        return passed(check, f"{service.description} answers at {address}")
    if service.needs_auth:
        fix = "set PRELABEL_USER and PRELABEL_PASSWORD to the values of `prelabel serve`"
        return failed(check, f"{service.description} answers at {address}", fix)
    if service.description:
        fix = f"stop it, or run `prelabel serve --port {url_port(url) + 1}`"
        return failed(check, f"{service.description} answers at {address}", fix)
    return failed(check, f"nothing answers at {address} ({service.error})", _serve_command(url))


def check_connection(project: CheckedProject) -> Iterator[CheckResult]:
    """Check that Label Studio reaches the backend; it uses the first ML backend of a project."""
    check, setup = "connection", project.setup
    if project.connections is None:  # reported when they were listed
        return
    if not project.connections:
        expected_url = strip_url_secrets(setup.backend_url).removesuffix("/…")
        fix = f"run `prelabel connect {project.number} --backend {expected_url}`"
        yield failed(check, "the project has no ML backend", fix)
        return
    connection = project.connections[0]
    address = strip_url_secrets(connection.url)
    if connection.state == DISCONNECTED_STATE:
        message = f"Label Studio does not reach {address}"
        yield failed(check, message, _connection_fix(connection, setup.backend_url, setup.auth))
    elif connection.state != CONNECTED_STATE:
        reason = connection.error or connection.state
        fix = (
            "see the log of `prelabel serve`; often the reason is PRELABEL_ALLOWED_SERVERS or the "
            "home folder"
        )
        yield failed(check, f"{address} refuses the connection from Label Studio ({reason})", fix)
    else:
        problems = list(_check_other_connections(project.connections[1:], setup.auth))
        yield from problems[:1] or [passed(check, f"Label Studio reaches {address}")]


def _check_other_connections(
    connections: Sequence[BackendConnection], auth: tuple[str, str] | None
) -> Iterator[CheckResult]:
    """Yield problems of additional ML backends, which receive only webhooks.

    Backends of another kind are not a problem.
    """
    for connection in connections:
        address = strip_url_secrets(connection.url)
        fix = f"{PROJECT_SETTINGS} Model → {address} → ⋮ → Delete"
        if connection.state == DISCONNECTED_STATE:
            message = f"a second ML backend at {address} does not answer"
            yield failed("connection", message, fix)
        elif identify_backend(connection.url, auth).description == MODEL_CLASS:
            message = f"a second Prelabel at {address} trains, too, and both write the queue"
            yield failed("connection", message, fix)


def check_webhooks(project: CheckedProject) -> Iterator[CheckResult]:
    """Check that the backend receives label events, and that other webhooks are reachable."""
    connection = project.active_connection
    if connection is None:
        yield unchecked("webhook", "not checked: there is no connection")
        return
    hooks = list_webhooks(project.client, project.number)
    own_url = f"{connection.url}/webhook"
    yield _check_own_webhook(project, [hook for hook in hooks if hook.url == own_url])
    for url in sorted({hook.url for hook in hooks if hook.is_active and hook.url != own_url}):
        if url.endswith("/webhook") and not is_listening(url):
            address = f"{strip_url_secrets(url.removesuffix('/webhook'))}/webhook"
            fix = f"{WEBHOOK_SETTINGS} → {address}: delete it"
            message = f"another webhook sends label events to {address}, and nothing answers there"
            yield failed("webhook", message, fix)


def _check_own_webhook(project: CheckedProject, hooks: Sequence[Webhook]) -> CheckResult:
    """Check the webhooks with the address of the backend."""
    check, backend = "webhook", project.backend_url
    address = f"{strip_url_secrets(backend)}/webhook"
    settings_path = f"{WEBHOOK_SETTINGS} → {address}:"
    if not hooks:
        hint = f" ({PRINTED_URL} + /webhook)" if _has_secret(backend) else ""
        fix = f"run `prelabel connect {project.number}`, or {WEBHOOK_SETTINGS} → Add Webhook, "
        fix += f"{address}, all events{hint}"
        if not accepts_webhooks(backend):
            fix = DOTLESS_HOST_RULE.format(host=urlsplit(backend).hostname)
        return failed(check, f"there is none for {address}", fix)
    active = [hook for hook in hooks if hook.is_active]
    if not active:
        return failed(check, "it is turned off", f"{settings_path} turn it on")
    if not any(hook.sends_all or hook.events >= REQUIRED_EVENTS for hook in active):
        return failed(check, "it does not send label events", f"{settings_path} send all events")
    if not identify_backend(backend, project.setup.auth).is_expected:
        return unchecked(check, "exists and is on; not tested because the backend does not answer")
    status = send_test_event(hooks[0].url, project.number)
    if status in (401, 403):
        fix = f"{EDIT_FIX.format(url=PRINTED_URL)}, and change the webhook, too"
        return failed(check, "the backend refuses it: the secret is missing in its address", fix)
    if status != 200:
        message = f"answers with status {status}" if status else "does not answer"
        return failed(check, f"the backend {message}", _serve_command(backend))
    return passed(check, "exists, is on, and the backend accepts a test event from this machine")


def check_model_version(project: CheckedProject) -> CheckResult:
    """Check that the project uses the live version."""
    check, queue_version = "model version", project.details.get("model_version") or ""
    if project.record is None and project.active_connection:
        fix = (
            "set PRELABEL_HOME to the value of `prelabel serve`; if it is the same, restart "
            "`prelabel serve` and open the project's page Settings → Model"
        )
        return failed(check, "this PRELABEL_HOME does not contain the project", fix)
    if project.record is None:
        return unchecked(check, f"{queue_version or 'none'}; the project is not connected")
    if not project.live_version:
        return unchecked(check, f"there is no version yet. {_describe_first_round(project)}")
    fix = f"run `prelabel train {project.number}`"
    if queue_version != project.live_version and project.keeps_settings:
        return unchecked(check, f"{queue_version or 'none'}; {KEPT_MESSAGE}")
    if queue_version != project.live_version:
        task_count = int(project.details.get("task_number") or 0)
        if task_count == int(project.details.get("num_tasks_with_annotations") or 0):
            message = f"{queue_version or 'none'}; the queue is empty because no task is open"
            return unchecked(check, message)
        message = f"the queue uses {queue_version or 'no version'}, not {project.live_version}"
        if read_round_state(project.setup.resources.folder(project.record)):
            return unchecked(check, f"{message} yet, because a round is running")
        return failed(check, message, fix)
    count = project.client.prediction_counts(project.number).get(queue_version, 0)
    return passed(check, f"the queue uses {queue_version}, which has {count} predictions")


def _describe_first_round(project: CheckedProject) -> str:
    """Return when the first version comes, and what to label for predictions."""
    settings = project.setup.settings
    types = [TAG_BY_KIND[control.kind] for control in project.controls]
    pause = f"a pause of {settings.quiet_seconds:.0f} seconds"
    first_labels = describe_first_labels(types, settings.retrain_after, pause)
    return f"`prelabel serve` creates it when it is connected. {first_labels}"


def check_files(project: CheckedProject) -> Iterator[CheckResult]:
    """Check that the files of the project in the home folder can be read."""
    check = "files"
    if project.record is None:
        yield unchecked(check, "not checked: the project is not connected")
        return
    problems = find_problems(project.setup.resources.folder(project.record))
    for problem in problems:
        yield failed(check, problem, FILES_FIX)
    if not problems:
        yield passed(check, "all versions can be read")


def check_sampling(project: CheckedProject) -> CheckResult:
    """Check that the queue is sorted by the model's score."""
    check, sampling = "sampling", project.details.get("sampling") or ""
    if sampling == UNCERTAINTY_SAMPLING:
        return passed(check, sampling)
    if project.keeps_settings:
        return unchecked(check, f"{sampling}; {KEPT_MESSAGE}")
    if project.record and not project.live_version:
        return unchecked(check, f"{sampling}; the first round sets {UNCERTAINTY_SAMPLING}")
    fix = (
        f"{PROJECT_SETTINGS} General → Task Sampling: {UNCERTAINTY_SAMPLING}; "
        f"`prelabel train {project.number}` sets it, too"
    )
    return failed(check, f"the project uses {sampling}", fix)


def check_preannotations(project: CheckedProject) -> CheckResult:
    """Check that annotators see predictions when they open a task."""
    check = "pre-annotation"
    if project.details.get("show_collab_predictions"):
        return passed(check, "annotators see predictions when they open a task")
    fix = f"{PROJECT_SETTINGS} Annotation, turn on “Use predictions to prelabel tasks”"
    return failed(check, "annotators do not see predictions when they open a task", fix)


def check_tabs(project: CheckedProject) -> Iterator[CheckResult]:
    """Check that Label Studio's frontend can load the tabs; one that it cannot hides all."""
    check, broken = "Data Manager", ProjectTabs(project.client, project.number).find_broken()
    for tab in broken:
        operators = ", ".join(f"“{operator}”" for operator in tab.operators)
        message = (
            f"the tab “{tab.title}” has the filter operator {operators}, on which the page of the "
            "project fails for everybody"
        )
        address = f"{project.client.server}/api/dm/views/{tab.id}/"
        fix = f"run `prelabel train {project.number}`, which repairs the tab"
        yield failed(check, message, fix if tab.is_own else f"send DELETE to {address}")
    if not broken:
        yield passed(check, "the page of the project can load its tabs")


def _connection_fix(
    connection: BackendConnection, expected_url: str, auth: tuple[str, str] | None
) -> str:
    """Return the fix for a connection that Label Studio cannot reach."""
    service = identify_backend(connection.url, auth)
    if service.is_expected or service.needs_auth:
        host = urlsplit(connection.url).hostname
        return (
            f"{host} is another machine for Label Studio, or a firewall blocks it: run `prelabel "
            f"serve --host 0.0.0.0`, and "
            f"{EDIT_FIX.format(url='an address that Label Studio can reach')}"
        )
    if (
        strip_url_secrets(expected_url) != strip_url_secrets(connection.url)
        and identify_backend(expected_url, auth).is_expected
    ):
        return EDIT_FIX.format(url=PRINTED_URL if _has_secret(expected_url) else expected_url)
    return _serve_command(connection.url)


def _serve_command(url: str) -> str:
    return f"run `prelabel serve --port {url_port(url)}`"


def _has_secret(url: str) -> bool:
    return bool(urlsplit(url).path.strip("/"))
