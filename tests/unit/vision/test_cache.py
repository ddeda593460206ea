"""The embedding cache: shared by processes, whole after a crash, set aside when damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from backend.errors import StoreError
from backend.vision.cache import EmbeddingCache, ImageFacts

WRITER = """
import sys, numpy as np
from pathlib import Path
from backend.vision.cache import EmbeddingCache
cache, who = EmbeddingCache(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
for start in range(0, int(sys.argv[3]), 20):
    digests = [f"{who}-{number}" for number in range(start, start + 20)]
    cache.put("e", digests, np.full((20, 64), start, dtype=np.float32))
"""


def writer(path: Path, who: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), who, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_vectors_come_back_as_they_were_by_encoder_and_content(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "deep" / "e.sqlite")
    vectors = np.random.default_rng(0).normal(size=(1200, 7)).astype(np.float32)
    digests = [f"d{number}" for number in range(1200)]
    cache.put("one", digests, vectors)
    cache.put("one", digests[:2], vectors[:2])  # the same twice is fine
    found = cache.get("one", [*digests, "unknown"])
    assert set(found) == set(digests)
    assert np.array_equal(np.stack([found[d] for d in digests]), vectors)
    assert cache.get("other", digests) == {}
    assert cache.get("one", []) == {}


def test_facts_of_images_come_back_by_reference(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    facts = {f"r{n}": ImageFacts(f"d{n}", n, n + 1) for n in range(700)}
    EmbeddingCache(path).remember(facts)
    assert EmbeddingCache(path).facts([*facts, "unknown"]) == facts


def test_two_processes_write_while_a_third_reads(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    cache = EmbeddingCache(path)
    both = [writer(path, who, 400) for who in ("a", "b")]
    while any(process.poll() is None for process in both):
        cache.get("e", ["a-0", "b-0"])
    assert [process.wait() for process in both] == [0, 0]
    assert len(cache.get("e", [f"{who}-{n}" for who in "ab" for n in range(400)])) == 800


def test_a_killed_writer_leaves_whole_transactions(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    process = writer(path, "a", 10**6)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = EmbeddingCache(path).get("e", [f"a-{n}" for n in range(10_000)])
    assert len(found) % 20 == 0
    assert len(found) > 0
    assert all(v.shape == (64,) and len(set(v)) == 1 for v in found.values())


def test_a_damaged_file_is_set_aside_and_started_anew(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    path.write_bytes(b"this is no database " * 100)
    cache = EmbeddingCache(path)
    cache.put("e", ["d"], np.ones((1, 3), dtype=np.float32))
    assert list(cache.get("e", ["d"])) == ["d"]
    (aside,) = tmp_path.glob("*.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database")


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="PRELABEL_HOME"):
        EmbeddingCache(tmp_path / "file" / "e.sqlite")
