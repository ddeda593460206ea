"""From answers to a job, from labels to a config, from a folder to what is imported."""

from __future__ import annotations

import doctest
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from backend.domain import Label
from backend.errors import UsageError
from backend.label_studio import protocol
from backend.label_studio.client import Json
from backend.label_studio.config import read_config
from backend.starting import folder as reading
from backend.starting import importing, writing
from backend.starting.folder import Found, Largest, Passed
from backend.starting.job import QUESTIONS, Job, check, explain, job_of, next_question
from backend.starting.names import completed, fitting, read_labels
from backend.starting.project import same_controls, title_of
from tests.harness import png

LARGEST = Largest(bytes=1_000_000, pixels=100_000)
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("answers", "labels", "job"),
    [
        # whole images go into buckets
        ("sort no no no", 2, Job.BINARY),
        ("sort no no no", 3, Job.ONE),
        ("sort no no yes", 3, Job.SEVERAL),
        # place or number matters although the first answer was "sort"
        ("sort yes click", 1, Job.POINTS),
        ("sort yes box", 1, Job.BOXES),
        # a small part of a busy picture decides
        ("sort no yes click", 2, Job.POINTS),
        ("sort no yes box", 2, Job.BOXES),
        # things are found or counted
        ("find click", 5, Job.POINTS),
        ("find box", 5, Job.BOXES),
    ],
)
def test_answers_lead_to_the_job(answers: str, labels: int, job: Job) -> None:
    given: dict[str, str] = {}
    for typed in answers.split():
        question = next_question(given)
        assert question is not None
        assert typed in question.answers
        given[question.name] = typed
    assert next_question(given) is None
    assert job_of(given, labels) is job
    check(given)
    assert explain(job, given)


def ways(given: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    question = next_question(given)
    if question is None:
        yield given
        return
    for answer in question.answers:
        yield from ways({**given, question.name: answer})


def test_no_question_is_asked_in_vain() -> None:
    for question in QUESTIONS:
        asked = [given for given in ways({}) if question.name in given]
        jobs = {answer: set() for answer in question.answers}  # type: ignore[var-annotated]
        for given in asked:
            jobs[given[question.name]].add(job_of(given, 3))
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
    with pytest.raises(UsageError, match="changes nothing"):
        check(answers)


def test_answers_may_be_given_in_part() -> None:
    for given in ways({}):
        for name, value in given.items():
            check({name: value})


def test_the_explanation_says_why_in_plain_words() -> None:
    small = " ".join(explain(Job.POINTS, {"goal": "sort", "place": "no", "small": "yes"}))
    assert "small part of the picture" in small
    assert "teaches that there is none" in small
    assert "quickest" in " ".join(explain(Job.ONE, {"goal": "sort"}))


# -- labels and configs -------------------------------------------------------------------------


def test_labels_are_read_as_people_type_them() -> None:
    found = read_labels(" ripe = red, firm ,unripe=green,\nripe, ,a b\n")
    assert found == [
        Label("ripe", hint="red"),
        Label("firm"),
        Label("unripe=green"),
        Label("a b"),
    ]


@pytest.mark.parametrize("bad", ["$price", "a\x07b"])
def test_a_label_that_would_not_come_back_as_it_is_is_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        read_labels(f"fine, {bad}")


@pytest.mark.parametrize(
    ("job", "labels", "now", "names"),
    [
        (Job.ONE, "a,b", Job.BINARY, ["a", "b"]),
        (Job.ONE, "a,b,c", Job.ONE, ["a", "b", "c"]),
        (Job.ONE, "ripe", Job.BINARY, ["ripe", "not ripe"]),
        (Job.SEVERAL, "ripe", Job.BINARY, ["ripe", "not ripe"]),
        (Job.SEVERAL, "a,b", Job.SEVERAL, ["a", "b"]),
        (Job.BOXES, "a", Job.BOXES, ["a"]),
    ],
)
def test_the_number_of_labels_fits_the_job(
    job: Job, labels: str, now: Job, names: list[str]
) -> None:
    read = read_labels(labels)
    assert fitting(job, read) is now
    assert [label.name for label in completed(read, fitting(job, read))] == names


AWKWARD = ['a "b"', "it's", "<b>", "x & y", "]]>", "größe", "苺🍓", "--", "a|b", "%20", "{a}"]


@pytest.mark.parametrize("job", list(Job))
@pytest.mark.parametrize("many", [False, True])
def test_a_written_config_is_read_as_the_same_labels(job: Job, many: bool) -> None:
    labels = [Label(name, hint=f"hint of {name}") for name in AWKWARD]
    labels += [Label(f"kind {n}") for n in range(289 * many)]
    xml = writing.write_config(job, labels)
    (control,) = read_config(xml).controls
    assert control.labels == tuple(labels)
    assert control.kind == {Job.BOXES: "boxes", Job.POINTS: "points"}.get(job, "choices")
    assert control.multiple is (job is Job.SEVERAL)
    assert ("<Filter" in xml) is many


def test_the_colours_of_labels_differ() -> None:
    colours = [writing.colour(place) for place in range(60)]
    assert len(set(colours)) == 60
    assert all(len(one) == 7 and int(one[1:], 16) >= 0 for one in colours)


def test_configs_are_the_same_when_they_ask_for_the_same() -> None:
    plain, hinted = (
        writing.write_config(Job.ONE, read_labels(text)) for text in ("a,b,c", "a = an a,b,c")
    )
    assert same_controls(plain, hinted)
    assert not same_controls(plain, writing.write_config(Job.ONE, read_labels("a,b")))
    assert not same_controls(plain, writing.write_config(Job.SEVERAL, read_labels("a,b,c")))


@pytest.mark.parametrize(
    ("name", "title"), [("plants", "plants"), ("x", "Images of x"), ("l" * 80, "l" * 50)]
)
def test_a_title_is_one_that_label_studio_takes(tmp_path: Path, name: str, title: str) -> None:
    assert title_of(tmp_path / name) == title


# -- folders and imports --------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images in subfolders, one of them twice, and what cannot be used."""
    folder = tmp_path / "photos"
    (folder / "a" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "a" / "10.png").write_bytes(png("red", 1))
    (folder / "a" / "2.PNG").write_bytes(png("red", 2))
    (folder / "a" / "deep" / "wrong ending, grün.jpg").write_bytes(png("blue", 3))
    (folder / "z.png").write_bytes(png("red", 1))
    (folder / ".git" / "x.png").write_bytes(png("red", 9))
    (folder / "text.txt").write_text("text")
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes(png("red", 4)[:300])
    (folder / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (folder / "new.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(50))
    (folder / "scan.tif").write_bytes(b"II*\0" + bytes(50))
    (folder / "huge.png").write_bytes(png("red", 5) + bytes(LARGEST.bytes))
    (folder / "wide.png").write_bytes(png("red", 6, size=400))
    os.mkfifo(folder / "pipe.png")
    return folder


def test_every_file_is_an_image_once_or_passed_over_with_its_reason(photos: Path) -> None:
    files = reading.files_of(photos)
    read = list(reading.read(photos, files, NONE, LARGEST))
    found = [(one.file, one.name) for one in read if isinstance(one, Found)]
    assert found == [
        ("z.png", "z.png"),
        ("a/2.PNG", "2.png"),
        ("a/deep/wrong ending, grün.jpg", "wrong-ending-gr-n.png"),
    ]
    unshown = "which browsers do not show: save them as JPEG"
    assert {one.file: one.reason for one in read if isinstance(one, Passed)} == {
        ".git/x.png": "hidden file",
        "a/10.png": "the same as another file of the folder",
        "text.txt": "not an image (.txt)",
        "empty.png": "empty file",
        "half.png": "damaged image",
        "phone.HEIC": f"HEIC, {unshown}",
        "new.avif": f"AVIF, {unshown}",
        "scan.tif": f"TIFF or a camera's raw file, {unshown}",
        "huge.png": "larger than 1 MB (PRELABEL_MAX_IMAGE_MB)",
        "wide.png": "too many pixels",
        "pipe.png": "not a file",
    }
    assert reading.folder_names(photos, files) == ["a"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no folder"):
        reading.files_of(tmp_path / "nothing")


class Shelf:
    """Takes images and keeps what it is told; full after some calls, like a server that went."""

    def __init__(self, calls: int = 1000) -> None:
        self.files: dict[str, bytes] = {}
        self.rows: list[Json] = []
        self.sizes: list[int] = []
        self._calls = calls

    def upload(self, number: int, files: list[tuple[str, bytes]]) -> list[str]:
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


def image(number: int, size: int = 10) -> Found:
    return Found(f"{number}.png", f"digest {number}", ".png", bytes(size))


def test_images_are_sent_in_batches_of_few_images_and_few_bytes() -> None:
    assert [len(b) for b in importing.batches(image(n) for n in range(120))] == [50, 50, 20]
    large = [image(n, importing.BATCH_BYTES // 2) for n in range(4)]
    assert [len(b) for b in importing.batches([*large, image(5, importing.BATCH_BYTES * 2)])] == [
        2,
        2,
        1,
    ]
    assert list(importing.batches([])) == []


def test_what_was_interrupted_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH", 4)
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(png("red", number % 9))
    files = reading.files_of(tmp_path)
    shelf = Shelf(calls=2)
    with pytest.raises(ConnectionError):
        importing.bring(
            reading.read(tmp_path, files, NONE, LARGEST), shelf, 1, 10, lambda d, o: None
        )
    known = frozenset(row["data"]["sha256"] for row in shelf.rows)
    assert len(known) == 8
    again, told = Shelf(), []
    read = reading.read(tmp_path, files, known, LARGEST)
    imported = importing.bring(read, again, 1, 10, lambda *now: told.append(now))
    assert (imported.images, dict(imported.passed)) == (
        1,
        {"in the project already": 8, "the same as another file of the folder": 1},
    )
    assert told == [(10, 10)]
    (row,) = again.rows
    assert row["data"]["file"] == "8.png"
    assert again.files[row["data"]["image"]] == png("red", 8)


def test_what_is_passed_over_is_told_with_some_names() -> None:
    told = importing.Imported()
    for number in range(5):
        told.pass_over(Passed(f"{number}.txt", "not an image (.txt)"))
    told.pass_over(Passed("x.png", "damaged image"))
    assert told.lines() == [
        "5 × not an image (.txt) (0.txt, 1.txt, 2.txt, …)",
        "1 × damaged image (x.png)",
    ]


def test_names_without_a_dot_are_known_to_get_no_webhooks() -> None:
    """As Django's validator of addresses has it, which Label Studio uses."""
    found = doctest.testmod(protocol)
    assert found.attempted
    assert not found.failed
