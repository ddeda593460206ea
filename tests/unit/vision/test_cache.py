"""The embedding cache, with real processes, a real kill and a really damaged file."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from backend.errors import StoreError
from backend.vision.encoders.embedding_cache import EmbeddingCache, ImageInfo

WRITER = """
import hashlib, sys
import numpy as np
from pathlib import Path
from backend.vision.encoders.embedding_cache import EmbeddingCache, ImageInfo

cache, name, count = EmbeddingCache(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
print("open", flush=True)
for i in range(count):
    digests = [hashlib.sha256(f"{name} {i} {j}".encode()).hexdigest() for j in range(20)]
    cache.put_vectors("e", digests, np.full((20, 64), i, dtype=np.float32))
    cache.put_image_info({d: ImageInfo(d, i, 1) for d in digests})
    print(i, flush=True)
"""


def digests(count: int, name: str = "x") -> list[str]:
    return [hashlib.sha256(f"{name} {i}".encode()).hexdigest() for i in range(count)]


def vectors(count: int, dim: int = 8, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "embeddings.sqlite"


def test_stored_vectors_are_returned_exactly(path: Path) -> None:
    keys, table = digests(5), vectors(5)
    EmbeddingCache(path).put_vectors("e", keys, table)
    found = EmbeddingCache(path).get_vectors("e", [*keys, "0" * 64])
    assert set(found) == set(keys)
    for key, row in zip(keys, table, strict=True):
        np.testing.assert_array_equal(found[key], row)
        assert found[key].dtype == np.float32


def test_vectors_of_encoders_are_separate(path: Path) -> None:
    cache, keys = EmbeddingCache(path), digests(3)
    cache.put_vectors("one", keys, vectors(3, seed=1))
    cache.put_vectors("two", keys[:1], vectors(1, dim=5, seed=2))
    assert len(cache.get_vectors("one", keys)) == 3
    assert {v.shape for v in cache.get_vectors("two", keys).values()} == {(5,)}
    assert cache.get_vectors("three", keys) == {}


def test_the_same_key_twice_keeps_the_last(path: Path) -> None:
    cache, keys = EmbeddingCache(path), digests(2)
    cache.put_vectors("e", keys, vectors(2, seed=1))
    cache.put_vectors("e", [keys[0], keys[0]], np.array([[1, 2], [3, 4]], dtype=np.float32))
    np.testing.assert_array_equal(cache.get_vectors("e", keys)[keys[0]], [3, 4])


def test_an_empty_request_returns_nothing(path: Path) -> None:
    cache = EmbeddingCache(path)
    cache.put_vectors("e", [], np.zeros((0, 4), dtype=np.float32))
    cache.put_image_info({})
    assert cache.get_vectors("e", []) == {}
    assert cache.get_image_info([]) == {}


def test_more_vectors_than_digests_are_refused(path: Path) -> None:
    cache = EmbeddingCache(path)
    with pytest.raises(ValueError, match="longer"):
        cache.put_vectors("e", digests(2), vectors(3))
    assert cache.get_vectors("e", digests(2)) == {}


def test_image_properties_are_stored_by_reference(path: Path) -> None:
    facts = {"https://a/1.jpg": ImageInfo("d1", 640, 480), "ü '%_": ImageInfo("d2", 1, 2)}
    cache = EmbeddingCache(path)
    cache.put_image_info(facts)
    cache.put_image_info({"https://a/1.jpg": ImageInfo("d3", 64, 48)})
    found = EmbeddingCache(path).get_image_info([*facts, "unknown"])
    assert found == {**facts, "https://a/1.jpg": ImageInfo("d3", 64, 48)}


def test_ten_thousand_vectors_are_read_at_once(path: Path) -> None:
    cache, keys = EmbeddingCache(path), digests(10_000)
    table = vectors(10_000, dim=512)
    cache.put_vectors("e", keys, table)
    found = cache.get_vectors("e", keys)
    assert len(found) == 10_000
    np.testing.assert_array_equal(found[keys[-1]], table[-1])


def test_threads_share_one_cache(path: Path) -> None:
    cache = EmbeddingCache(path)
    failures: list[Exception] = []

    def work(name: str) -> None:
        try:
            for i in range(10):
                keys = digests(4, f"{name} {i}")
                cache.put_vectors("e", keys, vectors(4))
                assert len(cache.get_vectors("e", keys)) == 4
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_processes_write_while_another_reads_and_nothing_is_lost(path: Path) -> None:
    cache = EmbeddingCache(path)
    started = [writer(path, name, 25) for name in ("a", "b", "c")]
    while any(process.poll() is None for process in started):
        cache.get_vectors("e", digests(10))
    for process in started:
        process.communicate(timeout=60)
        assert process.returncode == 0
    wanted = [
        hashlib.sha256(f"{name} {i} {j}".encode()).hexdigest()
        for name in "abc"
        for i in range(25)
        for j in range(20)
    ]
    assert len(cache.get_vectors("e", wanted)) == len(cache.get_image_info(wanted)) == len(wanted)


def test_processes_can_create_the_file_at_once(path: Path) -> None:
    started = [writer(path, name, 1) for name in "abcdef"]
    for process in started:
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_a_killed_writer_leaves_whole_transactions(path: Path) -> None:
    process = writer(path, "k", 100_000)
    assert process.stdout is not None
    done = -1
    while done < 15:
        line = process.stdout.readline().strip()
        done = int(line) if line.isdigit() else done
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    cache = EmbeddingCache(path)
    for i in range(done + 1):
        keys = [hashlib.sha256(f"k {i} {j}".encode()).hexdigest() for j in range(20)]
        assert len(cache.get_vectors("e", keys)) == 20
    cache.put_vectors("e", digests(1), vectors(1))
    assert not list(path.parent.glob("*damaged*"))


def test_a_file_that_is_not_a_database_is_renamed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database, " * 1000)
    other = path.parent / "versions.json"
    other.write_text("{}")
    with caplog.at_level(logging.WARNING):
        cache = EmbeddingCache(path)
    cache.put_vectors("e", digests(1), vectors(1))
    assert len(cache.get_vectors("e", digests(1))) == 1
    assert "was damaged" in caplog.text
    aside = list(path.parent.glob("*damaged*"))
    assert [a.read_bytes()[:3] for a in aside] == [b"not"]
    assert other.read_text() == "{}"


def garble(path: Path) -> None:
    """Spoil all but the first pages, which hold the list of tables."""
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(path.stat().st_size - 8192))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


@pytest.fixture
def filled(path: Path) -> list[str]:
    """The keys of a file of 2,000 vectors that nobody has open."""
    keys, cache = digests(2000), EmbeddingCache(path)
    cache.put_vectors("e", keys, vectors(2000, dim=64))
    cache.close()
    return keys


@pytest.mark.parametrize("damage", [garble, truncate])
def test_damage_found_later_is_renamed_too(
    path: Path,
    filled: list[str],
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(path)
    with caplog.at_level(logging.WARNING):
        cache = EmbeddingCache(path)
        assert cache.get_vectors("e", filled) == {}
    assert "was damaged" in caplog.text
    cache.put_vectors("e", filled, vectors(2000))
    assert len(cache.get_vectors("e", filled)) == 2000
    assert list(path.parent.glob("*damaged*"))


def test_a_second_user_of_a_damaged_file_follows_to_the_new_one(
    path: Path, filled: list[str]
) -> None:
    one, two = EmbeddingCache(path), EmbeddingCache(path)
    garble(path)
    assert one.get_vectors("e", filled) == {}
    one.put_vectors("e", filled[:1], vectors(1))
    assert set(two.get_vectors("e", filled)) == set(filled[:1])
    two.put_vectors("e", filled[1:2], vectors(1))
    assert set(EmbeddingCache(path).get_vectors("e", filled)) == set(filled[:2])


def test_a_folder_that_is_not_writable_raises_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="PRELABEL_HOME") as caught:
        EmbeddingCache(tmp_path / "file" / "embeddings.sqlite")
    assert "\n" not in str(caught.value)


def test_a_full_disk_raises_one_sentence_and_loses_nothing(path: Path) -> None:
    cache = EmbeddingCache(path)
    cache.put_vectors("e", digests(2), vectors(2))
    cache._open().execute("PRAGMA max_page_count = 20")
    with pytest.raises(StoreError, match="full"):
        cache.put_vectors("e", digests(1000, "y"), vectors(1000, dim=512))
    assert len(cache.get_vectors("e", digests(2))) == 2
    assert cache.get_vectors("e", digests(1000, "y")) == {}
