"""Check a project's images, and that Label Studio returns regions unchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from itertools import islice

from backend.doctor.check import CheckResult, failed, passed, unchecked
from backend.doctor.contexts import CheckedProject, ImageSample
from backend.domain import (
    ChoicePrediction,
    Control,
    ImageSize,
    Prediction,
    Region,
    RegionPrediction,
)
from backend.errors import ImageError
from backend.label_studio import Json
from backend.label_studio.image_fetcher import make_task_fetcher
from backend.label_studio.json_values import read_field, read_object
from backend.label_studio.region_results import complete_regions
from backend.label_studio.task_results import format_prediction
from backend.server_url import split_url
from backend.vision.images.decode import decode_upright_image
from backend.web_fetcher import SERVER_BUSY_REASON, redact_url

MAX_SAMPLED_TASKS = 5000
CHECK_TIMEOUT_SECONDS = 15.0
TRIAL_VERSION = "prelabel-doctor"
"""Model version of the test prediction, which is deleted after the check."""
TRIAL_REGION = Region("", 0.123456789, 0.2, 0.987654321, 0.3456789)
"""Region whose coordinates change if Label Studio rounds them."""
COORDINATE_TOLERANCE = 1e-6
CONTROL_KINDS = ("boxes", "points", "choices")
"""Kinds of controls, preferred ones for the check of coordinates first."""
STORAGE_SETTINGS = "in Label Studio, project → Settings → Cloud Storage"
CREDENTIALS_FIX = f"{STORAGE_SETTINGS}, add the bucket or container with valid credentials"
STORAGE_FIXES = {
    "upload": "the file is missing in Label Studio's data folder: import it again",
    "local files": (
        "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, and {STORAGE_SETTINGS}, add the folder as local "
        "files"
    ),
    **dict.fromkeys(("s3", "gs", "azure-blob", "azure-spi"), CREDENTIALS_FIX),
    "web": "open the address in a browser; if it is wrong, import the task again",
    "data URI": "import the task again",
    "unknown": "give the task an image address that Label Studio can show",
}


def storage_of(address: str) -> str:
    """Return the kind of storage for an image address.

    Example:
        >>> storage_of("/data/upload/3/a.jpg"), storage_of("s3://bucket/a.jpg")
        ('upload', 's3')
    """
    scheme = split_url(address.strip()).scheme.lower()
    if "/data/local-files" in address and not scheme:
        return "local files"
    if address.startswith("/"):
        return "upload"
    if scheme in ("http", "https"):
        return "web"
    if scheme == "data":
        return "data URI"
    return scheme if scheme in STORAGE_FIXES else "unknown"


def check_images(project: CheckedProject) -> Iterator[CheckResult]:
    """Check that one image from each storage of a project can be opened."""
    if not project.controls:
        return
    samples = _sample_images(project)
    task_count = int(project.details.get("task_number") or 0)
    if not samples and task_count:
        fields = " or ".join(sorted({f"${control.image_key}" for control in project.controls}))
        fix = f"name the field that holds the image in the labeling config instead of {fields}"
        yield failed(
            "image", f"none of the {task_count} tasks has an image address in {fields}", fix
        )
    elif not samples:
        yield unchecked("image", "the project has no image yet: import some")
    settings = project.setup.settings
    fetcher = make_task_fetcher(
        project.client,
        settings,
        announced=project.record.server if project.record else "",
        timeout_seconds=CHECK_TIMEOUT_SECONDS,
    )
    for sample in samples:
        check = f"image ({sample.storage})"
        try:
            content = fetcher.fetch(sample.address, sample.task)
            image = decode_upright_image(content, max_pixels=settings.max_image_pixels)
        except ImageError as error:
            message = f"task {sample.task}, {redact_url(sample.address)}: {error}"
            yield failed(check, message, _suggest_fix(sample, error))
            continue
        size = ImageSize(image.width, image.height)
        project.readable_images.append((sample, size))
        message = f"task {sample.task} can be opened, {size.width} × {size.height} pixels"
        yield passed(check, message)
    fetcher.close()


def _sample_images(project: CheckedProject) -> list[ImageSample]:
    """Return the first image from each storage."""
    keys = {control.image_key for control in project.controls}
    samples: dict[str, ImageSample] = {}
    for row in islice(project.client.iter_tasks(project.number), MAX_SAMPLED_TASKS):
        for key in keys:
            address = read_field(read_object(row, "data"), key)
            if isinstance(address, str) and address:
                storage = storage_of(address)
                samples.setdefault(storage, ImageSample(int(row["id"]), address, storage))
    return list(samples.values())


def check_coordinates(project: CheckedProject) -> Iterator[CheckResult]:
    """Check that Label Studio returns a prediction's region unchanged.

    The prediction is deleted afterwards, as are predictions of interrupted checks.
    """
    if not project.readable_images:
        return
    check, client = "coordinates", project.client
    control = min(project.controls, key=lambda control: CONTROL_KINDS.index(control.kind))
    sample, size = project.readable_images[0]
    prediction = _trial_prediction(sample.task, size, control)
    id = client.add_prediction(
        format_prediction(prediction, {control.name: control}, TRIAL_VERSION)
    )
    try:
        returned: list[Json] = client.get_json(f"api/predictions/{id}/")["result"]
    finally:
        client.delete_prediction(id)
    if client.prediction_counts(project.number).get(TRIAL_VERSION):
        for leftover in client.prediction_tasks(project.number, TRIAL_VERSION):
            client.delete_prediction(leftover)
    if _is_unchanged(prediction, returned, control):
        yield passed(check, f"a region of {control.name} is returned unchanged")
    else:
        fix = "this version of Label Studio changes regions: please report it"
        yield failed(check, f"a region of {control.name} is returned with changes", fix)


def _trial_prediction(task: int, size: ImageSize, control: Control) -> Prediction:
    label = control.label_names[0]
    if control.kind == "choices":
        return Prediction(task, (ChoicePrediction(control.name, {label: 1.0}, size),), 1.0)
    region = replace(TRIAL_REGION, label=label)
    if control.kind == "points":
        x, y = TRIAL_REGION.center
        region = Region(label, x, y, x, y)
    return Prediction(task, (), 1.0, (RegionPrediction(control.name, (region,), (1.0,), size),))


def _is_unchanged(sent: Prediction, returned: Sequence[Json], control: Control) -> bool:
    if control.kind == "choices":
        return [r["value"]["choices"] for r in returned] == [[control.label_names[0]]]
    regions = complete_regions(returned, control, Counter()) or ()
    return len(regions) == 1 and _is_close(sent.regions[0].regions[0], regions[0])


def _is_close(first: Region, second: Region) -> bool:
    return first.label == second.label and all(
        abs(a - b) < COORDINATE_TOLERANCE
        for a, b in zip(astuple(first)[1:5], astuple(second)[1:5], strict=True)
    )


def _suggest_fix(sample: ImageSample, error: ImageError) -> str:
    if error.reason == "image address is private":
        host = split_url(sample.address).hostname
        return f"to allow images from {host}, set PRELABEL_ALLOWED_HOSTS={host}"
    if error.reason == SERVER_BUSY_REASON:
        return "nothing to do if this passes: the image is fetched again in some minutes"
    if error.reason in (
        "not an image",
        "SVG drawing",
        "damaged image",
        "empty file",
        "too many pixels",
    ):
        return f"replace the image, or delete task {sample.task}"
    return STORAGE_FIXES[sample.storage]
