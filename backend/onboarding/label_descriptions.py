"""Ask for descriptions of labels only where a model reads them."""

from __future__ import annotations

from backend.onboarding.labeling_job import LabelingJob
from backend.settings import Settings

LABELS_QUESTION = "Which labels? Separate them by commas."
DESCRIPTIONS_HINT = (
    "Short descriptions improve the first predictions: ripe = a red fruit, unripe = a green fruit. "
    "Separate labels by semicolons if descriptions contain commas."
)


def labels_question(job: LabelingJob, settings: Settings) -> str:
    """Return the question for the labels of a job."""
    hint = f" {DESCRIPTIONS_HINT}" if reads_descriptions(job, settings) else ""
    return LABELS_QUESTION + hint


def reads_descriptions(job: LabelingJob, settings: Settings) -> bool:
    """Return whether a model reads descriptions: YOLOE for regions, CLIP for whole images."""
    if job.is_region_job:
        from backend.vision.detection.yoloe import find_yoloe_weights

        return find_yoloe_weights(settings.weights_dir or settings.home / "weights") is not None
    from backend.vision.encoders.load import embeds_text

    return embeds_text(settings.encoder)
