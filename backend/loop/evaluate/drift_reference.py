"""What the audit slice of a version looks like, to compare production with."""

from __future__ import annotations

from collections import Counter

import numpy as np

from backend.domain import Control
from backend.inference.embed import Embedded, vectors_of
from backend.inference.model import Model, choose
from backend.loop.evaluate.metrics import NO_SIZE
from backend.loop.fit import Fit
from backend.loop.observe import Observation
from backend.store.drift_reference import Reference


def reference_of(seen: Observation, fit: Fit, model: Model, embedded: Embedded) -> Reference:
    """The audit slice, labeled or not.

    Of choices the mix is what the model says of all its images, of boxes and points what people
    marked in it: production is answered by the model, and neither is looked at twice.
    """
    audit = [task for task in seen.tasks if seen.is_audit(task)]
    vectors = vectors_of(audit, embedded)
    rows = np.stack(list(vectors.values())) if vectors else np.zeros((0, 0), dtype=np.float32)
    mix = {c.name: _mix(c, fit, model, rows) for c in seen.config.controls}
    return Reference({name: dict(counts) for name, counts in mix.items()}, rows)


def _mix(control: Control, fit: Fit, model: Model, rows: object) -> Counter[str]:
    found: Counter[str] = Counter()
    if control.kind != "choices":
        for sample in fit.samples(control):
            found.update(place.label for place in sample.places if sample.audit)
    elif control.name in model.heads and len(np.asarray(rows)):
        labels = model.labels(control.name)
        for row in model.probabilities(control.name, np.asarray(rows)):
            found.update(choose(control, labels, row, NO_SIZE).labels)
    return found
