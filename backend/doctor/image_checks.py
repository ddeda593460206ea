"""One image of each storage of a project, and whether regions come back as they were sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit

from backend.doctor.check_result import CheckResult, failed, passed, unchecked
from backend.doctor.project_checks import CheckedProject
from backend.domain import (
    ChoicePrediction,
    Control,
    ImageSize,
    Prediction,
    Region,
    RegionPrediction,
)
from backend.errors import ImageError
from backend.label_studio.image_fetcher import TaskImageFetcher
from backend.label_studio.region_results import Json, complete_regions
from backend.label_studio.task_results import format_prediction
from backend.settings import Settings
from backend.vision.images.decode import decode_upright_image
from backend.web_fetcher import FetchLimits, redact_url

MAX_SAMPLED_TASKS = 5000
"""Tasks at most whose addresses are sorted by storage."""
FETCH_TIMEOUT_SECONDS = 15.0
TRIAL_VERSION = "prelabel-doctor"
"""Version of the prediction that is sent, read and removed again."""
TRIAL_REGION = Region("", 0.123456789, 0.2, 0.987654321, 0.3456789)
"""Numbers that rounding would change."""
COORDINATE_TOLERANCE = 1e-6
STORAGE_SETTINGS = "in Label Studio, project → Settings → Cloud Storage"
STORAGE_FIXES = {
    "upload": "the file is gone from Label Studio's data folder: import it again",
    "local files": (
        "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, and {STORAGE_SETTINGS}, add the folder as local files"
    ),
    "s3": f"{STORAGE_SETTINGS}, add the bucket with credentials that work",
    "gs": f"{STORAGE_SETTINGS}, add the bucket with credentials that work",
    "azure-blob": f"{STORAGE_SETTINGS}, add the container with credentials that work",
    "azure-spi": f"{STORAGE_SETTINGS}, add the container with credentials that work",
    "web": "open the address in a browser; where it is wrong, import the task again",
    "data URI": "import the task again",
    "unknown": "give the task's image an address that Label Studio can show",
}


@dataclass(frozen=True)
class ImageSample:
    """An image of a project.

    Attributes:
        task: a task that shows it.
        address: as it stands there.
        storage: where it is kept.
    """

    task: int
    address: str
    storage: str


@dataclass(frozen=True)
class OpenedImage:
    """An image that opened."""

    sample: ImageSample
    size: ImageSize


def storage_of(address: str) -> str:
    """Where an image is kept, by its address.

    Example:
        >>> storage_of("/data/upload/3/a.jpg"), storage_of("s3://bucket/a.jpg")
        ('upload', 's3')
    """
    scheme = urlsplit(address.strip()).scheme.lower()
    if "/data/local-files" in address and not scheme:
        return "local files"
    if address.startswith("/"):
        return "upload"
    if scheme in ("http", "https"):
        return "web"
    if scheme == "data":
        return "data URI"
    return scheme if scheme in STORAGE_FIXES else "unknown"


def sample_images(checked_project: CheckedProject) -> list[ImageSample]:
    """One image of each storage, the first that comes."""
    keys = {control.image_key for control in checked_project.labeling_config().controls}
    samples_by_storage: dict[str, ImageSample] = {}
    for row in islice(checked_project.client.iter_tasks(checked_project.number), MAX_SAMPLED_TASKS):
        for key in keys:
            address = (row.get("data") or {}).get(key)
            if isinstance(address, str) and address:
                storage = storage_of(address)
                samples_by_storage.setdefault(
                    storage, ImageSample(int(row["id"]), address, storage)
                )
    return list(samples_by_storage.values())


def check_image(
    checked_project: CheckedProject, settings: Settings, sample: ImageSample
) -> tuple[CheckResult, OpenedImage | None]:
    """Whether an image opens."""
    check = f"image ({sample.storage})"
    limits = FetchLimits(
        settings.max_image_bytes, settings.allowed_hosts, timeout_seconds=FETCH_TIMEOUT_SECONDS
    )
    images = TaskImageFetcher(
        checked_project.client.server, checked_project.client.auth_headers, limits
    )
    try:
        content = images.fetch(sample.address, sample.task)
        image = decode_upright_image(content, max_pixels=settings.max_image_pixels)
    except ImageError as error:
        message = f"task {sample.task}, {redact_url(sample.address)}: {error}"
        return failed(check, message, _suggest_fix(sample, error)), None
    finally:
        images.close()
    size = ImageSize(image.width, image.height)
    message = f"task {sample.task} opens, {size.width} × {size.height} pixels"
    return passed(check, message), OpenedImage(sample, size)


def check_coordinates(checked_project: CheckedProject, opened_image: OpenedImage) -> CheckResult:
    """Whether a prediction's region comes back from Label Studio unchanged.

    The prediction is removed again; what an earlier doctor left behind goes as well.
    """
    check, number = "coordinates", checked_project.number
    control = _most_detailed(checked_project.labeling_config().controls)
    sent = _trial_prediction(opened_image, control)
    id = checked_project.client.add_prediction(
        format_prediction(sent, {control.name: control}, TRIAL_VERSION)
    )
    try:
        returned = checked_project.diagnostics.get_prediction(id)["result"]
    finally:
        checked_project.client.delete_prediction(id)
    if checked_project.client.prediction_counts(number).get(TRIAL_VERSION):
        for leftover in checked_project.client.prediction_tasks(number, TRIAL_VERSION):
            checked_project.client.delete_prediction(leftover)
    if _is_unchanged(sent, returned, control):
        return passed(check, f"a region of {control.name} comes back as it was sent")
    fix = "report this with Label Studio's version: its regions are not understood"
    return failed(check, f"a region of {control.name} comes back changed", fix)


def _most_detailed(controls: tuple[Control, ...]) -> Control:
    """Boxes have the most numbers, choices the fewest."""
    order = {"boxes": 0, "points": 1, "choices": 2}
    return min(controls, key=lambda control: order[control.kind])


def _trial_prediction(opened_image: OpenedImage, control: Control) -> Prediction:
    label, task = control.label_names[0], opened_image.sample.task
    if control.kind == "choices":
        return Prediction(
            task, (ChoicePrediction(control.name, {label: 1.0}, opened_image.size),), 1.0
        )
    x, y = TRIAL_REGION.center
    region = Region(label, TRIAL_REGION.x0, TRIAL_REGION.y0, TRIAL_REGION.x1, TRIAL_REGION.y1)
    if control.kind == "points":
        region = Region(label, x, y, x, y)
    return Prediction(
        task, (), 1.0, (RegionPrediction(control.name, (region,), (1.0,), opened_image.size),)
    )


def _is_unchanged(sent: Prediction, returned: Sequence[Json], control: Control) -> bool:
    if control.kind == "choices":
        return [r["value"]["choices"] for r in returned] == [[control.label_names[0]]]
    regions = complete_regions(returned, control, Counter()) or ()
    return len(regions) == 1 and _is_close(sent.regions[0].regions[0], regions[0])


def _is_close(first: Region, second: Region) -> bool:
    return first.label == second.label and all(
        abs(a - b) < COORDINATE_TOLERANCE
        for a, b in zip(_edges(first), _edges(second), strict=True)
    )


def _edges(region: Region) -> Iterator[float]:
    yield from (region.x0, region.y0, region.x1, region.y1)


def _suggest_fix(sample: ImageSample, error: ImageError) -> str:
    if error.reason == "image address is private":
        host = urlsplit(sample.address).hostname
        return f"if {host} may be asked for images: PRELABEL_ALLOWED_HOSTS={host}"
    if error.reason in ("not an image", "damaged image", "empty file", "too many pixels"):
        return f"replace the image, or delete task {sample.task}"
    return STORAGE_FIXES[sample.storage]


def report_no_images() -> CheckResult:
    """Where there is nothing to look at."""
    return unchecked("image", "the project has no image yet: import some")
