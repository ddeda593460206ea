"""The labeling job for labels that exist already."""

from __future__ import annotations

from collections.abc import Sequence

from backend.domain import Label
from backend.errors import UsageError
from backend.onboarding.label_input import adjust_job, complete_labels, validate_label_name
from backend.onboarding.label_sources.source import LabelSource
from backend.onboarding.labeling_job import LabelingJob


def choose_label_job(
    source: LabelSource, requested_job: LabelingJob | None, labels: Sequence[Label]
) -> tuple[LabelingJob, list[Label]]:
    """Return the job and the labels of a new project.

    Args:
        source: the labels that exist already.
        requested_job: None if no option decides it.
        labels: as typed; the labels of the source if there are none.

    Raises:
        UsageError: the job cannot have such labels, or a label is invalid.
    """
    names = source.label_names
    labels = list(labels) or [Label(validate_label_name(name)) for name in names]
    if requested_job is not None:
        if requested_job.is_region_job != source.has_boxes:
            raise UsageError(
                f"--job {requested_job.value} does not fit the existing labels "
                f"({source.description}): leave it out, or add --import-labels none."
            )
        return requested_job, complete_labels(labels, requested_job)
    if source.has_boxes:
        return LabelingJob.BOXES, complete_labels(labels, LabelingJob.BOXES)
    job = LabelingJob.MULTIPLE_CHOICE if source.is_multiple else LabelingJob.SINGLE_CHOICE
    job = adjust_job(job, labels)
    return job, complete_labels(labels, job)
