"""One image of each storage of a project, and whether regions come back as they were sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit

from backend.doctor.check_result import Line, bad, good, unknown
from backend.doctor.project_checks import Subject
from backend.domain import Choice, Control, Finding, ImageSize, Place, Prediction
from backend.errors import ImageError
from backend.label_studio.image_fetcher import Images
from backend.label_studio.region_results import Json, marked_by
from backend.label_studio.task_results import prediction_json
from backend.settings import Settings
from backend.vision.images.decode import decode
from backend.web_fetcher import Limits, shown

LOOKED_THROUGH = 5000
"""Tasks at most whose addresses are sorted by storage."""
SECONDS = 15.0
TRIAL = "prelabel-doctor"
"""Version of the prediction that is sent, read and removed again."""
TRIED = Place("", 0.123456789, 0.2, 0.987654321, 0.3456789)
"""Numbers that rounding would change."""
CLOSE = 1e-6
STORAGE = "in Label Studio, project → Settings → Cloud Storage"
CURES = {
    "upload": "the file is gone from Label Studio's data folder: import it again",
    "local files": (
        "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, and {STORAGE}, add the folder as local files"
    ),
    "s3": f"{STORAGE}, add the bucket with credentials that work",
    "gs": f"{STORAGE}, add the bucket with credentials that work",
    "azure-blob": f"{STORAGE}, add the container with credentials that work",
    "azure-spi": f"{STORAGE}, add the container with credentials that work",
    "web": "open the address in a browser; where it is wrong, import the task again",
    "data URI": "import the task again",
    "unknown": "give the task's image an address that Label Studio can show",
}


@dataclass(frozen=True)
class Sample:
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
class Read:
    """An image that opened."""

    sample: Sample
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
    return scheme if scheme in CURES else "unknown"


def samples(subject: Subject) -> list[Sample]:
    """One image of each storage, the first that comes."""
    keys = {control.image_key for control in subject.config().controls}
    found: dict[str, Sample] = {}
    for row in islice(subject.client.tasks(subject.number), LOOKED_THROUGH):
        for key in keys:
            address = (row.get("data") or {}).get(key)
            if isinstance(address, str) and address:
                storage = storage_of(address)
                found.setdefault(storage, Sample(int(row["id"]), address, storage))
    return list(found.values())


def look(subject: Subject, settings: Settings, sample: Sample) -> tuple[Line, Read | None]:
    """Whether an image opens."""
    check = f"image ({sample.storage})"
    limits = Limits(settings.max_image_bytes, settings.allowed_hosts, seconds=SECONDS)
    images = Images(subject.client.server, subject.client.auth_headers, limits)
    try:
        content = images.fetch(sample.address, sample.task)
        picture = decode(content, max_pixels=settings.max_image_pixels)
    except ImageError as error:
        seen = f"task {sample.task}, {shown(sample.address)}: {error}"
        return bad(check, seen, _cure(sample, error)), None
    finally:
        images.close()
    size = ImageSize(picture.width, picture.height)
    seen = f"task {sample.task} opens, {size.width} × {size.height} pixels"
    return good(check, seen), Read(sample, size)


def coordinates(subject: Subject, read: Read) -> Line:
    """Whether a prediction's region comes back from Label Studio unchanged.

    The prediction is removed again; what an earlier doctor left behind goes as well.
    """
    check, number = "coordinates", subject.number
    control = _widest(subject.config().controls)
    sent = _prediction(read, control)
    id = subject.client.add_prediction(prediction_json(sent, {control.name: control}, TRIAL))
    try:
        back = subject.probe.prediction(id)["result"]
    finally:
        subject.client.remove_prediction(id)
    if subject.client.version_counts(number).get(TRIAL):
        for left in subject.client.predictions(number, TRIAL):
            subject.client.remove_prediction(left)
    if _same(sent, back, control):
        return good(check, f"a region of {control.name} comes back as it was sent")
    cure = "report this with Label Studio's version: its regions are not understood"
    return bad(check, f"a region of {control.name} comes back changed", cure)


def _widest(controls: tuple[Control, ...]) -> Control:
    """Boxes have the most numbers, choices the fewest."""
    order = {"boxes": 0, "points": 1, "choices": 2}
    return min(controls, key=lambda control: order[control.kind])


def _prediction(read: Read, control: Control) -> Prediction:
    label, task = control.label_names[0], read.sample.task
    if control.kind == "choices":
        return Prediction(task, (Choice(control.name, {label: 1.0}, read.size),), 1.0)
    x, y = TRIED.centre
    place = Place(label, TRIED.x0, TRIED.y0, TRIED.x1, TRIED.y1)
    if control.kind == "points":
        place = Place(label, x, y, x, y)
    return Prediction(task, (), 1.0, (Finding(control.name, (place,), (1.0,), read.size),))


def _same(sent: Prediction, back: Sequence[Json], control: Control) -> bool:
    if control.kind == "choices":
        return [r["value"]["choices"] for r in back] == [[control.label_names[0]]]
    places = marked_by(back, control, Counter()) or ()
    return len(places) == 1 and _near(sent.findings[0].places[0], places[0])


def _near(one: Place, other: Place) -> bool:
    return one.label == other.label and all(
        abs(a - b) < CLOSE for a, b in zip(_edges(one), _edges(other), strict=True)
    )


def _edges(place: Place) -> Iterator[float]:
    yield from (place.x0, place.y0, place.x1, place.y1)


def _cure(sample: Sample, error: ImageError) -> str:
    if error.reason == "image address is private":
        host = urlsplit(sample.address).hostname
        return f"if {host} may be asked for images: PRELABEL_ALLOWED_HOSTS={host}"
    if error.reason in ("not an image", "damaged image", "empty file", "too many pixels"):
        return f"replace the image, or delete task {sample.task}"
    return CURES[sample.storage]


def no_images() -> Line:
    """Where there is nothing to look at."""
    return unknown("image", "the project has no image yet: import some")
