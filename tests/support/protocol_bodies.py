"""Random JSON, and bodies of Label Studio's requests to a backend, for hypothesis."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["kind", "box", "dot", "img", "a", "b", "choices", "rectanglelabels"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), NAMES,
    st.sampled_from([10**400, "²", "9" * 5000, "2026-01-01", "2026-01-01T00:00:00Z", "\ud800"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def objects(*keys: str, **values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return objects whose fields have the right type mostly, and any type else."""
    fields = dict.fromkeys(keys, JSON) | {key: value | JSON for key, value in values.items()}
    return st.fixed_dictionaries({}, optional=fields) | JSON


PROJECTS = st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True)
SERVERS = st.sampled_from(["", "http://127.0.0.1:9", "http://localhost:9/prefix", "http://[bad"])
SETUP_BODIES = objects(
    "project", "hostname", "access_token", "schema", project=PROJECTS, hostname=SERVERS
) | st.fixed_dictionaries({"project": PROJECTS, "hostname": SERVERS}, optional={"schema": JSON})
WEBHOOK_BODIES = objects(
    "project", "action", "annotation", "annotations",
    action=st.sampled_from(["START_TRAINING", "ANNOTATION_CREATED", "ANNOTATIONS_DELETED"]),
    project=objects("id", "created_at"),
)  # fmt: skip
PREDICT_BODIES = objects(
    "project", "label_config", "params", "tasks",
    tasks=st.lists(objects("data", "project", id=st.integers()), max_size=3),
)  # fmt: skip


def protocol_bodies(path: str, project: int) -> st.SearchStrategy[bytes]:
    """Return bodies for a path: JSON that is nearly right, cut JSON, and bytes.

    Args:
        path: ``/setup``, ``/webhook`` or ``/predict``.
        project: number of a project that the backend has.
    """
    bodies = {"/setup": SETUP_BODIES, "/webhook": WEBHOOK_BODIES, "/predict": PREDICT_BODIES}[path]
    known: dict[str, Any] = {"project": {"id": project} if path == "/webhook" else str(project)}
    encoded = bodies.map(lambda body: json.dumps(body).encode())
    of_known = bodies.map(
        lambda body: json.dumps({**body, **known} if isinstance(body, dict) else body).encode()
    )
    cut = st.builds(lambda body, end: body[:end], encoded, st.integers(0, 200))
    complete = encoded if path == "/setup" else encoded | of_known  # its token stays valid
    return complete | complete | cut | st.binary(max_size=50)
