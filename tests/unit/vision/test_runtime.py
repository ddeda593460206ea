"""The fastest runner gives what torch gives, or it is torch."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.arrays import Floats
from backend.vision.runtime import Outputs, Runner, RunnerSpec, TorchRunner, select_fastest_runner
from backend.vision.runtime.openvino_runner import convert_to_openvino
from backend.vision.runtime.timings import TIMINGS_FILE

pytestmark = [
    pytest.mark.usefixtures("offline"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs torch itself"),
]

SHAPES = ((1, 3, 32, 32), (1, 3, 48, 80), (2, 3, 33, 31), (1, 3, 8, 160))


class Tiny(torch.nn.Module):  # type: ignore[misc]
    """Two outputs, as detectors have them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.second = torch.nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        maps = torch.nn.functional.silu(self.first(x))
        return maps.flatten(2), torch.sigmoid(self.second(maps))


class Random(Tiny):
    """No two answers are equal."""

    def forward(self, x: Any) -> Any:
        return self.first(x) + torch.randn(1)


class Unusual(Tiny):
    """Uses an operation that OpenVINO does not know."""

    def forward(self, x: Any) -> Any:
        return torch.special.bessel_j0(self.first(x))


def noise(shape: tuple[int, ...], seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def make(network: Any, folder: Path | None, said: list[str], **named: Any) -> Runner:
    options: dict[str, Any] = {"key": "weights:1", "family": "tiny-32", "dynamic_size": True}
    forced_kind = named.pop("forced_kind", None)
    spec = RunnerSpec(
        lambda: network, lambda: noise(SHAPES[0]), folder=folder, **{**options, **named}
    )
    return select_fastest_runner(spec, said.append, forced_kind)


def assert_close(found: Outputs, expected: Outputs) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def plain(network: Any, batch: Floats) -> Outputs:
    return TorchRunner(network, "cpu")(batch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing can be converted."""

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(torch.jit, "trace", refuse)


def test_openvino_outputs_equal_torch_for_any_size() -> None:
    said: list[str] = []
    runner = make(Tiny(), None, said, forced_kind="openvino")
    assert (runner.kind, said) == ("openvino", [])
    for number, shape in enumerate(SHAPES):
        batch = noise(shape, number)
        assert_close(runner(batch), plain(Tiny(), batch))


def test_a_fixed_size_takes_any_number_of_images() -> None:
    runner = make(Tiny(), None, [], forced_kind="openvino", dynamic_size=False)
    assert runner.kind == "openvino"
    for count in (1, 5):
        batch = noise((count, 3, 32, 32), count)
        assert_close(runner(batch), plain(Tiny(), batch))


@pytest.mark.parametrize("kind", ["openvino", "torch"])
def test_many_inputs_come_back_in_order(kind: Any) -> None:
    runner = make(Tiny(), None, [], forced_kind=kind)
    assert runner.kind == kind
    inputs = [noise(SHAPES[i % len(SHAPES)], i) for i in range(13)]
    for batch, found in zip(inputs, runner.run(inputs), strict=True):
        assert_close(found, plain(Tiny(), batch))
    assert runner.run([]) == []


@pytest.mark.parametrize("kind", ["openvino", "torch"])
def test_concurrent_threads_get_their_own_outputs(kind: Any) -> None:
    runner = make(Tiny(), None, [], forced_kind=kind)
    found: dict[int, Outputs] = {}

    def ask(number: int) -> None:
        found[number] = runner(noise((1, 3, 32, 32), number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):
        assert_close(found[number], plain(Tiny(), noise((1, 3, 32, 32), number)))


def test_a_network_with_different_openvino_outputs_uses_torch() -> None:
    said: list[str] = []
    runner = make(Random(), None, said)
    assert runner.kind == "torch"
    assert len(said) == 1
    assert "differs from torch by" in said[0]


def test_a_network_that_cannot_be_converted_uses_torch() -> None:
    said: list[str] = []
    runner = make(Unusual(), None, said)
    assert runner.kind == "torch"
    assert len(said) == 1
    assert said[0].startswith("OpenVINO is not used: ")
    assert "\n" not in said[0]
    np.testing.assert_array_equal(
        runner(noise(SHAPES[0]))[0], plain(Unusual(), noise(SHAPES[0]))[0]
    )


def test_a_converted_network_is_read_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    make(Tiny(), tmp_path, said, forced_kind="openvino")
    (compiled,) = tmp_path.glob("*.compiled")
    compiled.unlink()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".xml"]
    assert all(path.name.startswith("weights_1-") for path in tmp_path.iterdir())
    forget(monkeypatch)
    runner = make(Tiny(), tmp_path, said, forced_kind="openvino")
    assert (runner.kind, said) == ("openvino", [])
    assert_close(runner(noise(SHAPES[1])), plain(Tiny(), noise(SHAPES[1])))


def test_other_weights_are_stored_in_other_files(tmp_path: Path) -> None:
    make(Tiny(), tmp_path, [], forced_kind="openvino")
    runner = make(Tiny(1), tmp_path, [], key="weights:2", forced_kind="openvino")
    assert_close(runner(noise(SHAPES[0])), plain(Tiny(1), noise(SHAPES[0])))
    assert len(list(tmp_path.glob("*.xml"))) == 2


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "allow_bf16": content[: len(content) // 2], "text": b"!"}[how]
        )


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        (".xml", "empty"),
        (".xml", "allow_bf16"),
        (".xml", "text"),
        (".bin", "allow_bf16"),
        (".bin", "gone"),
    ],
)
def test_a_damaged_file_is_converted_again(
    suffix: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    make(Tiny(), tmp_path, said, forced_kind="openvino")
    (file,) = tmp_path.glob(f"*{suffix}")
    spoil(file, how)
    next(tmp_path.glob("*.compiled")).unlink()
    again = make(Tiny(), tmp_path, said, forced_kind="openvino")
    assert (again.kind, said) == ("openvino", [])
    next(tmp_path.glob("*.compiled")).unlink()
    forget(monkeypatch)
    kept = make(Tiny(), tmp_path, said, forced_kind="openvino")
    assert (kept.kind, said) == ("openvino", [])
    assert_close(kept(noise(SHAPES[0])), plain(Tiny(), noise(SHAPES[0])))


def test_a_file_with_changed_weights_is_never_used(tmp_path: Path) -> None:
    said: list[str] = []
    make(Tiny(), tmp_path, said, forced_kind="openvino")
    (file,) = tmp_path.glob("*.bin")
    file.write_bytes(b"\x3f" * file.stat().st_size)
    next(tmp_path.glob("*.compiled")).unlink()
    runner = make(Tiny(), tmp_path, said, forced_kind="openvino")
    assert_close(runner(noise(SHAPES[0])), plain(Tiny(), noise(SHAPES[0])))


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"other": "torch"}'])
def test_timings_are_stored_and_damaged_ones_are_measured_again(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / TIMINGS_FILE).write_text(content, encoding="utf-8")
    chosen = make(Tiny(), tmp_path, [])
    known = json.loads((tmp_path / TIMINGS_FILE).read_text(encoding="utf-8"))
    (key,) = (name for name in known if name.endswith(" tiny-32"))
    assert known[key] == chosen.kind
    assert ("other" in known) == ("other" in content)
    for kind in ("torch", "openvino"):  # what is written there is taken, untimed
        (tmp_path / TIMINGS_FILE).write_text(json.dumps({key: kind}), encoding="utf-8")
        assert make(Tiny(), tmp_path, []).kind == kind


def test_a_folder_that_is_not_writable_does_not_fail(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    said: list[str] = []
    runner = make(Tiny(), blocked / "below", said)
    assert said == []
    assert_close(runner(noise(SHAPES[0])), plain(Tiny(), noise(SHAPES[0])))


CONVERTED = """
import socket, sys
import numpy as np

def refuse(*given, **named):
    raise SystemExit("a connection")

socket.socket.connect = socket.socket.connect_ex = refuse
import backend.vision.runtime as runtime
for name in ("torch", "openvino", "ultralytics"):
    assert name not in sys.modules, name
import torch
example = np.ones((1, 3, 16, 16), dtype=np.float32)
network = torch.nn.Conv2d(3, 2, 3)
spec = runtime.RunnerSpec(lambda: network, lambda: example, key="k", family="f", folder=None)
runner = runtime.select_fastest_runner(spec, print, forced_kind="openvino")
assert runner.kind == "openvino"
assert sys.modules.get("openvino_telemetry") is None
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
print("done")
"""


def test_imports_are_lazy_and_conversion_sends_no_telemetry() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONVERTED], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "done", done.stderr


def test_torch_does_not_keep_converted_networks() -> None:
    """Torch's tracer would keep each one's weights for ever."""
    convert_to_openvino(Tiny(), noise(SHAPES[0]))
    before = kept_classes()
    convert_to_openvino(Tiny(), noise(SHAPES[0]))
    assert kept_classes() == before


def kept_classes() -> int:
    gc.collect()
    return sum(issubclass(type(kept), type) for kept in gc.get_objects())


RESTARTED = """
import sys
from pathlib import Path
import numpy as np
from backend.vision.runtime import RunnerSpec, select_fastest_runner

def refuse():
    raise SystemExit("the network was built again")

spec = RunnerSpec(refuse, refuse, key="weights:1", family="tiny-32", folder=Path(sys.argv[1]))
runner = select_fastest_runner(spec, print, forced_kind="openvino")
assert "torch" not in sys.modules
np.savez(sys.argv[2], *runner(np.load(sys.argv[3])))
"""


def test_a_second_process_answers_identically_without_torch(tmp_path: Path) -> None:
    folder, answers, batch_file = tmp_path / "cache", tmp_path / "out.npz", tmp_path / "batch.npy"
    runner = make(Tiny(), folder, [], forced_kind="openvino")
    batch = noise((1, 3, 32, 48), 7)
    np.save(batch_file, batch)
    command = [sys.executable, "-c", RESTARTED, str(folder), str(answers), str(batch_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(answers) as found:
        for one, other in zip(found.values(), runner(batch), strict=True):
            np.testing.assert_array_equal(one, other)


class Counted:
    """Counts how often the network is built."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Tiny:
        self.count += 1
        return Tiny()


def select(folder: Path, load_network: Counted, kind: Any = "openvino") -> Runner:
    spec = RunnerSpec(load_network, lambda: noise(SHAPES[0]), "weights:1", "tiny-32", folder)
    return select_fastest_runner(spec, pytest.fail, kind)


@pytest.mark.parametrize("how", ["empty", "half", "flipped", "of another network", "gone"])
def test_a_damaged_compiled_network_is_verified_again(how: str, tmp_path: Path) -> None:
    load_network = Counted()
    select(tmp_path, load_network)
    select(tmp_path, load_network)
    assert load_network.count == 1
    (file,) = tmp_path.glob("*.compiled")
    content = file.read_bytes()
    if how == "of another network":
        make(Tiny(1), tmp_path, [], key="weights:2", forced_kind="openvino")
        (other,) = set(tmp_path.glob("*.compiled")) - {file}
        other.replace(file)
    elif how == "gone":
        file.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        file.write_bytes({"empty": b"", "half": content[:middle], "flipped": flipped}[how])
    for _ in range(2):
        runner = select(tmp_path, load_network)
        assert_close(runner(noise(SHAPES[0])), plain(Tiny(), noise(SHAPES[0])))
    assert load_network.count == 2


def test_a_cache_moved_to_another_machine_is_measured_and_verified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_network = Counted()
    select(tmp_path, load_network, None)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # another number of cores
    runner = select(tmp_path, load_network, None)
    assert load_network.count == 2
    assert len(json.loads((tmp_path / TIMINGS_FILE).read_text(encoding="utf-8"))) == 2
    assert_close(runner(noise(SHAPES[0])), plain(Tiny(), noise(SHAPES[0])))


def test_the_thread_count_without_torch_equals_that_of_torch() -> None:
    program = (
        "from backend.vision.threads import count_threads; before = count_threads(); "
        "import torch; print(before, torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    before, of_torch = done.stdout.split()
    assert before == of_torch
