"""One project: connected both ways, pointed at the live version, and with images that open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from backend.doctor.check_result import Line, bad, good, unknown
from backend.doctor.label_studio_checks import plain
from backend.errors import ConfigError
from backend.label_studio.client import Client
from backend.label_studio.diagnostics import Probe, health, knock, listens
from backend.label_studio.labeling_config import ReadConfig, read_config
from backend.label_studio.ml_protocol import MODEL_CLASS, hears
from backend.loop.publish.push import UNCERTAINTY_SAMPLING
from backend.store.projects import ProjectRecord

CONNECTED, DISCONNECTED = "CO", "DI"
EVENTS = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"}
)
EDIT = "in Label Studio, project → Settings → Model → ⋮ → Edit, set the URL to {url}"
NAMELESS = (
    "Label Studio takes none for a name without a dot: connect the backend by its IP address, or "
    "by a name with a dot, such as prelabel.internal"
)
HOOKS = "in Label Studio, project → Settings → Webhooks"
CONFIG = (
    "in Label Studio, project → Settings → Labeling Interface, add Choices, RectangleLabels or "
    "KeyPointLabels for an Image; label_config/ has some to paste"
)


@dataclass(frozen=True)
class Subject:
    """A project that is looked at.

    Attributes:
        number: Label Studio's.
        client: with a token that works.
        about: the project as Label Studio tells of it.
        record: as the home folder knows it; None where it does not.
        live: its live version there; empty without.
    """

    number: int
    client: Client
    about: Mapping[str, Any]
    record: ProjectRecord | None
    live: str

    @property
    def probe(self) -> Probe:
        """Questions to its Label Studio."""
        return Probe(self.client)

    def config(self) -> ReadConfig:
        """Its labeling config.

        Raises:
            ConfigError: it is no XML.
        """
        return read_config(str(self.about.get("label_config") or ""))


@dataclass(frozen=True)
class Link:
    """How a project is connected.

    Attributes:
        url: the backend's, as Label Studio calls it; may hold the webhooks' secret.
        state: what Label Studio found when it called just now.
        error: what it said then.
    """

    url: str
    state: str
    error: str


def links(subject: Subject) -> list[Link]:
    """The connections, which Label Studio tries while it is asked; it uses the first."""
    return [
        Link(str(row["url"]).rstrip("/"), str(row["state"]), str(row.get("error_message") or ""))
        for row in subject.client.backends(subject.number)
    ]


def controls(subject: Subject) -> list[Line]:
    """Whether the labeling config has something that is served."""
    check = "labeling config"
    try:
        config = subject.config()
    except ConfigError as error:
        return [bad(check, str(error), CONFIG)]
    left = [
        unknown(check, f"{name} is not served ({why})") for name, why in config.left_out.items()
    ]
    if not config.controls:
        return [*left, bad(check, "there is no control that Prelabel serves", CONFIG)]
    told = ", ".join(f"{c.name} ({c.kind}, {len(c.labels)} labels)" for c in config.controls)
    return [good(check, told), *left]


def backend(url: str, auth: tuple[str, str] | None) -> Line:
    """Whether the backend answers, asked from here."""
    check, found = "backend", health(url, auth)
    if found.answers:
        return good(check, f"{found.what} answers at {plain(url)}")
    if found.what:
        cure = "set PRELABEL_USER and PRELABEL_PASSWORD as where `prelabel serve` runs"
        if "auth" not in found.what:
            cure = f"stop what listens there, or start `prelabel serve --port {_port(url) + 1}`"
        return bad(check, f"at {plain(url)} there is {found.what}", cure)
    return bad(check, f"nothing answers at {plain(url)} ({found.error})", _serve(url))


def connection(
    subject: Subject, joined: Sequence[Link], ours: str, auth: tuple[str, str] | None
) -> Line:
    """Whether Label Studio reaches the backend.

    Args:
        subject: the project.
        joined: its connections; Label Studio uses the first.
        ours: where the backend should be.
        auth: for it.
    """
    check = "connection"
    if not joined:
        cure = f"`prelabel connect {subject.number} --backend {_base(ours)}`"
        return bad(check, "the project has no ML backend", cure)
    first = joined[0]
    shown = plain(first.url)
    if first.state == DISCONNECTED:
        return bad(check, f"Label Studio does not reach {shown}", _reach(first, ours, auth))
    if first.state != CONNECTED:
        cure = "see what `prelabel serve` says; mostly PRELABEL_ALLOWED_SERVERS or its home folder"
        said = first.error or first.state
        return bad(check, f"Label Studio reaches {shown}, which refuses ({said})", cure)
    return _others(joined[1:], auth) or good(check, f"Label Studio reaches {shown}")


def _others(more: Sequence[Link], auth: tuple[str, str] | None) -> Line | None:
    """What is wrong with further connections, which Label Studio asks nothing, but tells of labels.

    Another kind of backend, which only draws on demand, does no harm; None where nothing does.
    """
    for other in more:
        where = plain(other.url)
        cure = f"in Label Studio, project → Settings → Model → {where} → ⋮ → Delete"
        if other.state == DISCONNECTED:
            return bad("connection", f"a second one leads to {where}, which is not reached", cure)
        if health(other.url, auth).what == MODEL_CLASS:
            seen = f"a second Prelabel at {where} learns too, and both set the queue"
            return bad("connection", seen, cure)
    return None


def webhook(subject: Subject, joined: Link, answers: bool) -> list[Line]:
    """Whether the backend hears of labels, and what else does.

    Args:
        subject: the project.
        joined: how it is connected.
        answers: the backend does.
    """
    hooks = subject.probe.webhooks(subject.number)
    ours, url = _our_webhook(subject, joined, hooks, answers), f"{joined.url}/webhook"
    others = {str(h["url"]) for h in hooks if h["is_active"] and h["url"].rstrip("/") != url}
    return [ours, *(_stray(other) for other in sorted(others) if _dead(other))]


def _dead(url: str) -> bool:
    """Whether a webhook leads to a backend that is gone; of others it is not ours to say."""
    return url.rstrip("/").endswith("/webhook") and not listens(url)


def _stray(url: str) -> Line:
    where = f"{plain(url.rstrip('/').removesuffix('/webhook'))}/webhook"
    seen = f"another one tells {where} of every label, and nothing answers there"
    return bad("webhook", seen, f"{HOOKS} → {where}: delete it")


def _our_webhook(
    subject: Subject, joined: Link, hooks: Sequence[Mapping[str, Any]], answers: bool
) -> Line:
    """Whether the backend hears of labels.

    Args:
        subject: the project.
        joined: how it is connected.
        hooks: all of the project.
        answers: the backend does.
    """
    check, url = "webhook", f"{joined.url}/webhook"
    hooks = [hook for hook in hooks if hook["url"].rstrip("/") == url]
    where = f"{plain(joined.url)}/webhook"
    if not hooks:
        cure = f"{HOOKS} → Add Webhook, {where}, all events"
        if _secret(joined.url):
            cure += " (the address is the one that `prelabel serve` prints)"
        if not hears(joined.url):
            cure = NAMELESS
        return bad(check, f"none goes to {where}", cure)
    active = [hook for hook in hooks if hook["is_active"]]
    if not active:
        return bad(check, "it is turned off", f"{HOOKS} → {where}: turn it on")
    if not any(h["send_for_all_actions"] or set(h["actions"]) >= EVENTS for h in active):
        return bad(check, "it does not tell of labels", f"{HOOKS} → {where}: send all events")
    if not answers:
        return unknown(check, "there and on; not tried, the backend does not answer")
    status = knock(url, subject.number)
    if status in (401, 403):
        cure = f"{EDIT.format(url='the address that `prelabel serve` prints')}, and the webhook too"
        return bad(check, "the backend refuses it: its address lacks the secret", cure)
    if status != 200:
        seen = f"the backend answers it with {status}" if status else "the backend does not answer"
        return bad(check, seen, _serve(joined.url))
    return good(
        check, "there, on, and accepted when sent from here (the switches tell what they let out)"
    )


def follows(subject: Subject, connected: bool) -> Line:
    """Whether the project is pointed at the live version.

    Args:
        subject: the project.
        connected: Label Studio has a connection of it.
    """
    check, name = "model version", str(subject.about.get("model_version") or "")
    if subject.record is None and connected:
        cure = (
            "set PRELABEL_HOME as where `prelabel serve` runs; if it is, restart `prelabel serve` "
            "and open the project's page Settings → Model"
        )
        return bad(check, "this PRELABEL_HOME does not know the project", cure)
    if subject.record is None:
        return unknown(check, f"{name or 'none'}; the project is not connected")
    cure = f"`prelabel train {subject.number}`"
    if not subject.live:
        return bad(check, "there is no version yet", cure)
    if name != subject.live and not _open_tasks(subject):
        return unknown(check, f"{name or 'none'}; no task is open that a queue could hand out")
    if name != subject.live:
        return bad(check, f"the queue follows {name or 'nothing'}, not {subject.live}", cure)
    count = subject.client.version_counts(subject.number).get(name, 0)
    return good(check, f"the queue follows {name}, with predictions: {count}")


def sampling(subject: Subject) -> Line:
    """Whether the next task is the one that teaches most."""
    check, name = "sampling", str(subject.about.get("sampling") or "")
    if name == UNCERTAINTY_SAMPLING:
        return good(check, name)
    cure = (
        f"in Label Studio, project → Settings → General → Task Sampling: {UNCERTAINTY_SAMPLING}; "
        f"`prelabel train {subject.number}` sets it too"
    )
    return bad(check, f"the project uses {name}", cure)


def shown(subject: Subject) -> Line:
    """Whether people see predictions when they open a task."""
    check = "pre-annotation"
    if subject.about.get("show_collab_predictions"):
        return good(check, "predictions are shown when a task is opened")
    where = "in Label Studio, project → Settings → Annotation → Use predictions to prelabel tasks"
    return bad(check, "people do not see predictions when they open a task", f"turn on {where}")


def _open_tasks(subject: Subject) -> int:
    whole = int(subject.about.get("task_number") or 0)
    return whole - int(subject.about.get("num_tasks_with_annotations") or 0)


def _reach(joined: Link, ours: str, auth: tuple[str, str] | None) -> str:
    """What cures a connection that Label Studio cannot use."""
    there, host = health(joined.url, auth), urlsplit(joined.url).hostname or ""
    if there.answers or "auth" in there.what:
        return (
            f"{host} means another machine there, or a firewall is between: start `prelabel serve "
            f"--host 0.0.0.0`, and {EDIT.format(url='an address that Label Studio can reach')}"
        )
    if plain(ours) != plain(joined.url) and health(ours, auth).answers:
        return EDIT.format(url=_told(ours))
    return _serve(joined.url)


def _told(url: str) -> str:
    return "the address that `prelabel serve` prints" if _secret(url) else url


def _base(url: str) -> str:
    """An address as `prelabel connect` wants it, which adds the secret itself."""
    return plain(url).removesuffix("/…")


def _serve(url: str) -> str:
    return f"`prelabel serve --port {_port(url)}`"


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _secret(url: str) -> bool:
    return bool(urlsplit(url).path.strip("/"))
