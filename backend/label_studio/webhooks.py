"""List and restore the webhooks of a project, which report label events."""

from __future__ import annotations

from dataclasses import dataclass

from backend.label_studio import Json
from backend.label_studio.api_session import ApiSession


@dataclass(frozen=True)
class Webhook:
    """A webhook of a project.

    Attributes:
        url: address without a trailing slash.
        is_active: whether it is enabled.
        sends_all: whether it sends all events.
        events: names of the events that it sends if not all.
        id: id of the webhook.
    """

    url: str
    is_active: bool
    sends_all: bool
    events: frozenset[str]
    id: int = 0


def list_webhooks(session: ApiSession, number: int) -> list[Webhook]:
    """Return the webhooks of a project."""
    rows: list[Json] = session.get_json("api/webhooks/", {"project": number})
    return [
        Webhook(
            url=str(row["url"]).rstrip("/"),
            is_active=bool(row["is_active"]),
            sends_all=bool(row["send_for_all_actions"]),
            events=frozenset(row["actions"] or ()),
            id=int(row["id"]),
        )
        for row in rows
    ]


def ensure_webhook(session: ApiSession, number: int, url: str) -> bool:
    """Restore the webhook of an ML backend if it was deleted or turned off.

    Label Studio adds it once, when the backend is connected.

    Args:
        session: session of Label Studio.
        number: project number.
        url: address of the backend.

    Returns:
        whether it was restored.
    """
    webhook_url = f"{url}/webhook"
    own = [hook for hook in list_webhooks(session, number) if hook.url == webhook_url]
    if any(hook.is_active and hook.sends_all for hook in own):
        return False
    events: Json = {"is_active": True, "send_payload": True, "send_for_all_actions": True}
    if own:
        session.request_json("PATCH", f"api/webhooks/{own[0].id}/", json=events)
    else:
        body = {"project": number, "url": webhook_url, **events}
        session.request_json("POST", "api/webhooks/", json=body)
    return True
