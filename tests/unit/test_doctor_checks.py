"""What doctor reports right after a project was connected, before its first round."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.doctor.contexts import CheckedProject, Setup
from backend.doctor.machine_checks import free_bytes
from backend.doctor.project_checks import check_model_version, check_sampling
from backend.label_studio.client import LabelStudioClient
from backend.onboarding.config_writer import write_config
from backend.onboarding.label_input import parse_labels
from backend.onboarding.labeling_job import LabelingJob
from backend.runtime.resources import Resources
from backend.settings import Settings


@pytest.mark.parametrize(
    ("job", "labels_needed"),
    [
        (LabelingJob.BOXES, "Annotate the objects in 3 images or more."),
        (LabelingJob.SINGLE_CHOICE, "Label a few images of each kind."),
    ],
)
def test_a_project_without_a_version_is_a_hint(
    job: LabelingJob, labels_needed: str, tmp_path: Path
) -> None:
    resources = Resources(Settings(home=tmp_path))
    project = CheckedProject(
        Setup(resources, "http://127.0.0.1:9", None, free_bytes),
        LabelStudioClient("http://127.0.0.1:9", "0" * 40),
        number=1,
        details={
            "label_config": write_config(job, parse_labels("ripe, unripe, gone")),
            "sampling": "Sequential sampling",
        },
        record=resources.projects.register("http://127.0.0.1:9", 1),
        live_version="",
    )
    version, sampling = check_model_version(project), check_sampling(project)
    assert (version.state, sampling.state) == ("open", "open"), "nothing failed"
    assert version.seen.startswith("there is no version yet.")
    assert labels_needed in version.seen
    assert "the first round sets Uncertainty sampling" in sampling.seen
