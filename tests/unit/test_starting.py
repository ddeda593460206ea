"""From answers to a job, from labels to a config, from a folder to what is imported."""

from __future__ import annotations

import doctest
import hashlib
import io
import itertools
import os
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from backend.cli import arguments
from backend.domain import Label
from backend.errors import PrelabelError, UsageError
from backend.label_studio import Json, backend_urls, ml_protocol
from backend.label_studio.labeling_config import read_config
from backend.learning import first_labels
from backend.onboarding import (
    backend_connection,
    config_writer,
    first_round,
    image_import,
    label_input,
    label_order,
)
from backend.onboarding import image_folder as reading
from backend.onboarding.first_round import BackendProject, FirstRoundControl
from backend.onboarding.folder_project import default_title, matches_options, validate_title
from backend.onboarding.image_folder import FolderImage, ImageLimits, SkippedFile
from backend.onboarding.label_descriptions import labels_question
from backend.onboarding.label_input import (
    adjust_job,
    complete_labels,
    describe_job,
    parse_labels,
)
from backend.onboarding.label_sources.sorted_folders import find_sorted_folders
from backend.onboarding.labeling_job import (
    JOB_QUESTIONS,
    LabelingJob,
    choose_job,
    explain_job,
    next_question,
    validate_answers,
)
from backend.settings import Settings
from backend.store.webhook_secret import load_webhook_secret
from backend.vision.images.formats import register_heif
from tests.support.harness import make_png
from tests.support.image_files import encode_image

LARGEST = ImageLimits(max_bytes=1_000_000, max_pixels=100_000)
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("answers", "labels", "job"),
    [
        # whole images go into buckets
        ("sort no no no", 2, LabelingJob.BINARY),
        ("sort no no no", 3, LabelingJob.SINGLE_CHOICE),
        ("sort no no yes", 3, LabelingJob.MULTIPLE_CHOICE),
        # place or number matters although the first answer was "sort"
        ("sort yes click", 1, LabelingJob.POINTS),
        ("sort yes box", 1, LabelingJob.BOXES),
        # a small part of a busy picture decides
        ("sort no yes click", 2, LabelingJob.POINTS),
        ("sort no yes box", 2, LabelingJob.BOXES),
        # things are found or counted
        ("find click", 5, LabelingJob.POINTS),
        ("find box", 5, LabelingJob.BOXES),
    ],
)
def test_answers_lead_to_the_job(answers: str, labels: int, job: LabelingJob) -> None:
    given: dict[str, str] = {}
    for typed in answers.split():
        question = next_question(given)
        assert question is not None
        assert typed in question.answers
        given[question.name] = typed
    assert next_question(given) is None
    assert choose_job(given, labels) is job
    validate_answers(given)
    assert explain_job(job, given)


def ways(given: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    question = next_question(given)
    if question is None:
        yield given
        return
    for answer in question.answers:
        yield from ways({**given, question.name: answer})


def test_no_question_is_asked_in_vain() -> None:
    for question in JOB_QUESTIONS:
        asked = [given for given in ways({}) if question.name in given]
        jobs = {answer: set() for answer in question.answers}  # type: ignore[var-annotated]
        for given in asked:
            jobs[given[question.name]].add(choose_job(given, 3))
        assert all(one != two for one, two in itertools.combinations(jobs.values(), 2))


@pytest.mark.parametrize(
    "answers",
    [
        {"goal": "find", "several": "yes"},
        {"goal": "find", "place": "no"},
        {"goal": "sort", "place": "yes", "small": "no"},
        {"goal": "sort", "place": "no", "small": "no", "mark": "box"},
    ],
)
def test_an_answer_that_changes_nothing_is_refused(answers: Mapping[str, str]) -> None:
    with pytest.raises(UsageError, match="has no effect"):
        validate_answers(answers)


def test_answers_may_be_given_in_part() -> None:
    for given in ways({}):
        for name, value in given.items():
            validate_answers({name: value})


def test_the_explanation_says_why_in_plain_words() -> None:
    small = " ".join(
        explain_job(LabelingJob.POINTS, {"goal": "sort", "place": "no", "small": "yes"})
    )
    assert "small part of the image" in small
    assert "submit it without a region" in small
    assert "fastest" in " ".join(explain_job(LabelingJob.SINGLE_CHOICE, {"goal": "sort"}))


# -- labels and configs -------------------------------------------------------------------------


def test_labels_are_read_as_people_type_them() -> None:
    found = parse_labels(" ripe = red, firm ,unripe=green,\nripe, ,a b\n")
    assert found == [
        Label("ripe", hint="red"),
        Label("firm"),
        Label("unripe", hint="green"),
        Label("a b"),
    ]
    assert parse_labels("a;b") == [Label("a"), Label("b")]
    assert parse_labels("ripe = a red, round fruit; new, unripe = green, hard\nold") == [
        Label("ripe", hint="a red, round fruit"),
        Label("new"),
        Label("unripe", hint="green, hard"),
        Label("old"),
    ]


def test_examples_of_what_is_typed_and_told_are_right() -> None:
    for module in (
        ml_protocol,
        backend_urls,
        label_input,
        label_order,
        backend_connection,
        first_round,
        first_labels,
        arguments,
    ):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://[::1", "is not a valid backend address"),
        ("http://127.0.0.1:99999", "is not a valid backend address"),
        ("127.0.0.1:9191", "needs http:// or https://, such as http://127.0.0.1:9191"),
        ("http://", "needs http://"),
        ("ftp://127.0.0.1:9191", "needs http://"),
        ("http://prelabel:9090", "sends no webhooks to a host name without a dot"),
    ],
)
def test_what_cannot_be_a_backends_address_is_one_sentence(address: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        backend_connection.validate_backend_url(address)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("end", ["", "/"])
def test_the_address_that_the_backend_prints_may_be_pasted(tmp_path: Path, end: str) -> None:
    settings = Settings(home=tmp_path, user="team", password="open sesame")
    printed = f"http://127.0.0.1:9090/{load_webhook_secret(tmp_path)}"
    assert (
        backend_connection.validate_backend_url(printed + end, settings) == "http://127.0.0.1:9090"
    )
    assert backend_connection.address_with_auth(settings, printed + end) == (
        printed,
        ("team", "open sesame"),
    )
    assert backend_connection.address_with_auth(settings, "http://127.0.0.1:9090") == (
        printed,
        ("team", "open sesame"),
    )


class Refusing(BaseHTTPRequestHandler):
    """A backend that wants another password."""

    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *given: object) -> None:
        """Nothing is told."""


def test_a_secret_of_another_home_is_not_told(tmp_path: Path) -> None:
    secret = load_webhook_secret(tmp_path / "other")
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(PrelabelError, match=f"{address} requires a password") as refused:
            backend_connection.find_running_backend(Settings(home=tmp_path), f"{address}/{secret}")
    assert secret not in str(refused.value)
    with pytest.raises(UsageError) as wrong:
        backend_connection.validate_backend_url(f"127.0.0.1:9090/{secret}")
    assert secret not in str(wrong.value)


def test_descriptions_are_asked_for_only_where_a_model_reads_them(tmp_path: Path) -> None:
    def hint(job: LabelingJob, encoder: str = "auto") -> bool:
        settings = Settings(home=tmp_path, encoder=encoder)
        return "Short descriptions" in labels_question(job, settings)

    assert not hint(LabelingJob.BOXES)
    assert not hint(LabelingJob.SINGLE_CHOICE, encoder="builtin")
    assert not hint(LabelingJob.SINGLE_CHOICE, encoder="yolo26n-cls.pt")
    assert hint(LabelingJob.SINGLE_CHOICE, encoder="ViT-B-32-256/datacomp_s34b_b86k")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "yoloe-26s-seg.pt").touch()
    assert hint(LabelingJob.POINTS)


@pytest.mark.parametrize(
    ("types", "wanted"),
    [
        (["Choices"], "Label a few images of each kind."),
        (["KeyPointLabels"], "Annotate the objects in 3 images or more."),
        (["Choices", "RectangleLabels"], "of each kind and annotate the objects in 3 images"),
    ],
)
def test_what_to_do_first_is_true_of_the_job(types: list[str], wanted: str) -> None:
    settings = Settings(home=Path("/nowhere"))
    controls = [FirstRoundControl(kind="none yet", type=one, advice="") for one in types]
    told, submitting, figure = first_round.describe_first_round(
        {"tasks": 7, "controls": controls}, settings
    )
    assert wanted in told
    assert "Ctrl+Enter" in submitting
    assert ("turns it off" in submitting) is ("Choices" in types)
    assert "the first accuracy after about 100 labels" in figure
    assert "after 10 labels, after a pause of 30 seconds" in told


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (0, "All 60 images are pre-annotated."),
        (40, "The other 20 images are pre-annotated."),
        (59, "The other 1 image is pre-annotated."),
        (60, "All 60 images are labeled. Next, add images"),
    ],
)
def test_images_that_were_imported_with_their_labels_are_not_called_pre_annotated(
    labels: int, wanted: str
) -> None:
    controls = [FirstRoundControl(kind="linear head", type="Choices", advice="")]
    state = BackendProject(tasks=60, labels=labels, controls=controls)
    told = first_round.describe_first_round(state, Settings(home=Path("/nowhere")))
    assert told[0].startswith(wanted)
    assert (len(told) == 1) is (labels == 60), "nothing is left to submit"


def test_a_first_look_that_fails_is_told_with_its_reason() -> None:
    state = BackendProject(round={"error": "No memory."}, controls=[], tasks=0)
    assert first_round.describe_first_round(state, Settings(home=Path("/nowhere"))) == [
        "The first round failed and will be retried: No memory."
    ]


@pytest.mark.parametrize("bad", ["$price", "a\x07b"])
def test_a_label_that_would_not_come_back_as_it_is_is_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        parse_labels(f"fine, {bad}")


@pytest.mark.parametrize(
    ("job", "labels", "now", "names"),
    [
        (LabelingJob.SINGLE_CHOICE, "a,b", LabelingJob.BINARY, ["a", "b"]),
        (LabelingJob.SINGLE_CHOICE, "a,b,c", LabelingJob.SINGLE_CHOICE, ["a", "b", "c"]),
        (LabelingJob.SINGLE_CHOICE, "ripe", LabelingJob.BINARY, ["ripe", "not ripe"]),
        (LabelingJob.MULTIPLE_CHOICE, "ripe", LabelingJob.BINARY, ["ripe", "not ripe"]),
        (LabelingJob.MULTIPLE_CHOICE, "a,b", LabelingJob.MULTIPLE_CHOICE, ["a", "b"]),
        (LabelingJob.BOXES, "a", LabelingJob.BOXES, ["a"]),
    ],
)
def test_the_number_of_labels_fits_the_job(
    job: LabelingJob, labels: str, now: LabelingJob, names: list[str]
) -> None:
    read = parse_labels(labels)
    assert adjust_job(job, read) is now
    assert [label.name for label in complete_labels(read, adjust_job(job, read))] == names


AWKWARD = ['a "b"', "it's", "<b>", "x & y", "]]>", "größe", "苺🍓", "--", "a|b", "%20", "{a}"]


@pytest.mark.parametrize("job", list(LabelingJob))
@pytest.mark.parametrize("many", [False, True])
def test_a_written_config_is_read_as_the_same_labels(job: LabelingJob, many: bool) -> None:
    labels = [Label(name, hint=f"hint of {name}") for name in AWKWARD]
    labels += [Label(f"kind {n}") for n in range(289 * many)]
    xml = config_writer.write_config(job, labels)
    (control,) = read_config(xml).controls
    assert control.labels == tuple(labels)
    assert control.kind == {LabelingJob.BOXES: "boxes", LabelingJob.POINTS: "points"}.get(
        job, "choices"
    )
    assert control.multiple is (job is LabelingJob.MULTIPLE_CHOICE)
    assert ("<Filter" in xml) is many


@pytest.mark.parametrize("job", list(LabelingJob))
@pytest.mark.parametrize("count", [2, 18, 60])
def test_labels_come_before_the_image_which_leaves_room_for_them(
    job: LabelingJob, count: int
) -> None:
    xml = config_writer.write_config(job, [Label(f"kind {n}") for n in range(count)])
    control, image = xml.index("<" + config_writer.TAG_BY_JOB[job]), xml.index("<Image")
    assert control < image
    (height,) = re.findall(r'maxHeight="calc\(100vh - (\d+)px\)"', xml)
    assert 250 <= int(height) <= 370
    is_single_choice = job in (LabelingJob.BINARY, LabelingJob.SINGLE_CHOICE)
    assert ('required="true"' in xml) is is_single_choice


@pytest.mark.parametrize("job", [LabelingJob.SINGLE_CHOICE, LabelingJob.BOXES, LabelingJob.POINTS])
@pytest.mark.parametrize(
    ("labels", "keys"),
    [
        ("zero, one, two", "012"),
        ("four, one, three", "413"),
        ("Nine, 3, Zero", "930"),
        ("cat, two, dog, one", "3241"),
        ("7, seven", "71"),  # only one can have the key
        ("1_euro, 10, twenty one, 2 euro", "1234"),  # only a whole label is a number
        ("²,٣,a", "123"),  # no key has these digits
    ],
)
def test_a_label_that_is_a_number_has_its_key(job: LabelingJob, labels: str, keys: str) -> None:
    parsed = parse_labels(labels)
    assert re.findall('hotkey="(.)"', config_writer.write_config(job, parsed)) == list(keys)
    described = describe_job(job, parsed)
    assert re.findall(r"\[(.)\]", described) == list(keys)


def test_only_ten_labels_have_a_digit_as_key_and_a_number_is_one_of_them() -> None:
    names = [*(f"kind {n}" for n in range(11)), "five"]
    assert "".join(label_order.assign_hotkeys(names)) == "1234678905"
    assert label_order.assign_hotkeys(names)[9:] == ["", "", "5"]


@pytest.mark.parametrize(
    ("folders", "sorted_names"),
    [
        ("four one three 0", "0 one three four"),
        ("img10 img2 Img1", "Img1 img2 img10"),
        ("two one cat", "cat one two"),
    ],
)
def test_folder_names_are_sorted_as_people_sort_them(
    tmp_path: Path, folders: str, sorted_names: str
) -> None:
    for number, name in enumerate(folders.split()):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(make_png("red", number))
    files = reading.list_files(tmp_path)
    assert reading.subfolder_names(tmp_path, files) == sorted_names.split()
    source = find_sorted_folders(tmp_path, files)
    assert source is not None
    assert source.label_names == tuple(sorted_names.split())


def test_the_colours_of_labels_differ() -> None:
    colours = [config_writer.label_colour(place) for place in range(60)]
    assert len(set(colours)) == 60
    assert all(len(one) == 7 and int(one[1:], 16) >= 0 for one in colours)


@pytest.mark.parametrize(
    ("job", "labels", "same"),
    [
        (LabelingJob.SINGLE_CHOICE, "a = an a, b, c", True),
        (LabelingJob.SINGLE_CHOICE, "", True),
        (None, "a, b, c", True),
        (None, "", True),
        (None, "a, b", False),
        (None, "a", False),
        (LabelingJob.BINARY, "", False),
        (LabelingJob.MULTIPLE_CHOICE, "a, b, c", False),
        (LabelingJob.BOXES, "", False),
    ],
)
def test_a_config_asks_for_what_options_say_as_far_as_they_say_it(
    job: LabelingJob | None, labels: str, same: bool
) -> None:
    config = config_writer.write_config(LabelingJob.SINGLE_CHOICE, parse_labels("a, b, c"))
    assert matches_options(config, job, parse_labels(labels)) is same


def test_of_one_label_the_opposite_is_known_again() -> None:
    config = config_writer.write_config(
        LabelingJob.BINARY, complete_labels(parse_labels("ripe"), LabelingJob.BINARY)
    )
    assert matches_options(config, LabelingJob.BINARY, parse_labels("ripe"))


@pytest.mark.parametrize("title", ["x", "", "l" * 51])
def test_a_title_that_label_studio_would_not_take_is_refused(title: str) -> None:
    with pytest.raises(UsageError, match="3 to 50 characters"):
        validate_title(title)


def test_a_folder_without_an_image_is_known_before_anything_is_made(photos: Path) -> None:
    def looked(*label_input: str) -> image_import.ImportSummary | None:
        files = [photos / name for name in label_input]
        return image_import.summarize_if_empty(reading.read_images(photos, files, NONE, LARGEST))

    nothing = looked("text.txt", "empty.png")
    assert nothing is not None
    assert dict(nothing.skipped_counts) == {"not an image (.txt)": 1, "empty file": 1}
    assert looked("text.txt", "z.png", "empty.png") is None


@pytest.mark.parametrize(
    ("name", "title"), [("plants", "plants"), ("x", "Images of x"), ("l" * 80, "l" * 50)]
)
def test_a_title_is_one_that_label_studio_takes(tmp_path: Path, name: str, title: str) -> None:
    assert default_title(tmp_path / name) == title


# -- folders and imports --------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images in subfolders, one of them twice, and what cannot be used."""
    folder = tmp_path / "photos"
    (folder / "a" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "a" / "10.png").write_bytes(make_png("red", 1))
    (folder / "a" / "2.PNG").write_bytes(make_png("red", 2))
    (folder / "a" / "deep" / "wrong ending, grün.jpg").write_bytes(make_png("blue", 3))
    (folder / "z.png").write_bytes(make_png("red", 1))
    (folder / ".git" / "x.png").write_bytes(make_png("red", 9))
    (folder / "text.txt").write_text("text")
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes(make_png("red", 4)[:300])
    (folder / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (folder / "new.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(50))
    (folder / "scan.tif").write_bytes(b"II*\0\x08\0\0\0" + bytes(50))
    (folder / "camera.NEF").write_bytes(encode_image(Image.new("RGB", (9, 9)), "TIFF"))
    (folder / "huge.png").write_bytes(make_png("red", 5) + bytes(LARGEST.max_bytes))
    (folder / "wide.png").write_bytes(make_png("red", 6, size=400))
    os.mkfifo(folder / "pipe.png")
    return folder


def test_every_file_is_an_image_once_or_passed_over_with_its_reason(photos: Path) -> None:
    files = reading.list_files(photos)
    read = list(reading.read_images(photos, files, NONE, LARGEST))
    found = [(one.path, one.name) for one in read if isinstance(one, FolderImage)]
    assert found == [
        ("z.png", "z.png"),
        ("a/2.PNG", "2.png"),
        ("a/deep/wrong ending, grün.jpg", "wrong-ending-gr-n.png"),
    ]
    assert {one.path: one.reason for one in read if isinstance(one, SkippedFile)} == {
        ".git/x.png": "hidden file",
        "a/10.png": "duplicate of another file in the folder",
        "text.txt": "not an image (.txt)",
        "empty.png": "empty file",
        "half.png": "damaged image",
        "phone.HEIC": "not an image",
        "new.avif": "not an image",
        "scan.tif": "not an image",
        "camera.NEF": "raw file of a camera: save it as JPEG",
        "huge.png": "larger than 1 MB (PRELABEL_MAX_IMAGE_MB)",
        "wide.png": "too many pixels",
        "pipe.png": "not a file",
    }
    assert reading.subfolder_names(photos, files) == ["a"]


def test_photos_that_label_studio_cannot_show_are_converted_upright(tmp_path: Path) -> None:
    register_heif()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.new("RGB", (48, 32), (200, 40, 40))
    for kind, name in (("HEIF", "a.HEIC"), ("TIFF", "b.tif"), ("AVIF", "c.avif")):
        (tmp_path / name).write_bytes(encode_image(photo, kind, exif=exif))
    files = reading.list_files(tmp_path)
    images = list(reading.read_images(tmp_path, files, NONE, LARGEST))
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert [(one.path, one.name, one.digest) for one in images if isinstance(one, FolderImage)] == [
        (name, f"{name[0]}.jpg", digest)
        for name, digest in zip(("a.HEIC", "b.tif", "c.avif"), digests, strict=True)
    ]
    for one in images:
        assert isinstance(one, FolderImage)
        with Image.open(io.BytesIO(one.content)) as jpeg:
            expected_size = (48, 32) if one.path == "a.HEIC" else (32, 48)  # written upright
            assert (jpeg.format, jpeg.size, dict(jpeg.getexif())) == ("JPEG", expected_size, {})


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no folder"):
        reading.list_files(tmp_path / "nothing")


class Shelf:
    """Takes images and keeps what it is told; full after some calls, like a server that went."""

    def __init__(self, calls: int = 1000) -> None:
        self.files: dict[str, bytes] = {}
        self.rows: list[Json] = []
        self.sizes: list[int] = []
        self._calls = calls

    def upload_images(self, number: int, files: list[tuple[str, bytes]]) -> list[str]:
        self._calls -= 1
        if self._calls < 0:
            raise ConnectionError("gone")
        addresses = [f"/data/{len(self.files) + i}-{name}" for i, (name, _) in enumerate(files)]
        self.files |= dict(zip(addresses, (content for _, content in files), strict=True))
        self.sizes.append(len(files))
        return addresses

    def add_tasks(self, number: int, rows: list[Json]) -> int:
        self.rows += rows
        return len(rows)


def image(number: int, size: int = 10) -> FolderImage:
    return FolderImage(f"{number}.png", f"digest {number}", ".png", bytes(size))


def test_images_are_sent_in_batches_of_few_images_and_few_bytes() -> None:
    assert [len(b) for b in image_import.make_batches(image(n) for n in range(120))] == [50, 50, 20]
    large = [image(n, image_import.MAX_BATCH_BYTES // 2) for n in range(4)]
    assert [
        len(b)
        for b in image_import.make_batches([*large, image(5, image_import.MAX_BATCH_BYTES * 2)])
    ] == [
        2,
        2,
        1,
    ]
    assert list(image_import.make_batches([])) == []


def test_what_was_interrupted_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_import, "UPLOAD_BATCH_SIZE", 4)
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(make_png("red", number % 9))
    files = reading.list_files(tmp_path)
    shelf = Shelf(calls=2)
    with pytest.raises(ConnectionError):
        image_import.import_images(
            reading.read_images(tmp_path, files, NONE, LARGEST), shelf, 1, 10, lambda d, o: None
        )
    known = frozenset(row["data"]["sha256"] for row in shelf.rows)
    assert len(known) == 8
    again, told = Shelf(), []
    read = reading.read_images(tmp_path, files, known, LARGEST)
    imported = image_import.import_images(read, again, 1, 10, lambda *now: told.append(now))
    assert (imported.image_count, dict(imported.skipped_counts)) == (
        1,
        {"already in the project": 8, "duplicate of another file in the folder": 1},
    )
    assert told == [(10, 10)]
    (row,) = again.rows
    assert row["data"]["file"] == "8.png"
    assert again.files[row["data"]["image"]] == make_png("red", 8)


def test_what_is_passed_over_is_told_with_some_names() -> None:
    told = image_import.ImportSummary()
    for number in range(5):
        told.add_skipped(SkippedFile(f"{number}.txt", "not an image (.txt)"))
    told.add_skipped(SkippedFile("x.png", "damaged image"))
    assert told.format_skipped() == [
        "5 × not an image (.txt) (0.txt, 1.txt, 2.txt, …)",
        "1 × damaged image (x.png)",
    ]
