"""Verified compiled networks on disk, so that a restarted process neither converts nor verifies.

A file holds a network that OpenVINO compiled, after its outputs were compared with torch's. It is
only used on the same machine type, with the same packages, and if its content is unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from backend.vision.runtime import openvino_runner
from backend.vision.runtime.cache_files import prune_cache, write_atomically
from backend.vision.runtime.openvino_runner import OpenVinoRunner
from backend.vision.runtime.runner import RunnerKind
from backend.vision.runtime.timings import machine_id
from backend.vision.threads import count_threads

COMPILED_SUFFIX = ".compiled"
MAX_COMPILED_FILES = 24
"""Maximum compiled networks in the cache folder; the least recently used are deleted."""
DIGEST_BYTES, LENGTH_BYTES = 32, 8
FILE_FORMAT = 1
"""Raised with each change of the file, or of the outputs of a network with unchanged weights."""
NETWORK_PACKAGES = ("prelabel", "ultralytics")


class CompiledNetwork(NamedTuple):
    """A network as exported by OpenVINO.

    Attributes:
        multi_stream: compiled for one stream per thread.
        single_stream: compiled for one stream on all threads; empty if that is not needed.
    """

    multi_stream: bytes
    single_stream: bytes


@dataclass(frozen=True)
class CompiledFile:
    """The file of a compiled network, and everything that the network depends on.

    Attributes:
        key: identifies the weights and the input size.
        kind: the runtime.
        machine: CPU, and versions of torch and OpenVINO, see :func:`machine_id`.
        packages: versions of the packages that build the network.
        threads: number of threads.
        format: format of the file.
    """

    key: str
    kind: RunnerKind
    machine: str
    packages: str
    threads: int
    format: int = FILE_FORMAT

    def path(self, folder: Path) -> Path:
        """Return the path of the file in the cache folder."""
        return folder / f"{hashlib.sha256(self._identity()).hexdigest()[:32]}{COMPILED_SUFFIX}"

    def read(self, folder: Path) -> CompiledNetwork | None:
        """Return the network; None if the file is missing, damaged or another network's."""
        path = self.path(folder)
        try:
            stored = memoryview(path.read_bytes())
            path.touch()  # the modification time records the last use
        except OSError:
            return None
        digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
        if digest != self._digest(content):
            return None
        end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES])
        return CompiledNetwork(bytes(content[LENGTH_BYTES:end]), bytes(content[end:]))

    def write(self, folder: Path, network: CompiledNetwork) -> None:
        """Write the file atomically.

        Raises:
            OSError: the folder is not writable, or the disk is full.
        """
        length = len(network.multi_stream).to_bytes(LENGTH_BYTES)
        content = b"".join((length, *network))
        write_atomically(self.path(folder), self._digest(content) + content)

    def remove(self, folder: Path) -> None:
        """Remove the file, if it exists."""
        with suppress(OSError):
            self.path(folder).unlink(missing_ok=True)

    def _digest(self, content: bytes | memoryview) -> bytes:
        digest = hashlib.sha256(self._identity())
        digest.update(content)
        return digest.digest()

    def _identity(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()


def load_compiled_runner(folder: Path, key: str, kind: RunnerKind) -> OpenVinoRunner | None:
    """Return the runner of a verified network; None if it must be verified (again).

    Args:
        folder: cache folder.
        key: identifies the weights and the input size.
        kind: ``openvino`` or ``openvino-bf16``.
    """
    threads = count_threads()
    file = _describe_file(key, kind, threads)
    network = file.read(folder)
    if network is None:
        return None
    try:
        compiled = openvino_runner.import_compiled(network.multi_stream, kind, threads, threads)
    except Exception:  # OpenVINO raises many exception types
        file.remove(folder)
        return None
    load_single_stream = _single_stream_loader(folder, file) if network.single_stream else None
    return OpenVinoRunner(kind, threads, compiled, load_single_stream)


def save_compiled_runner(
    folder: Path, key: str, runner: OpenVinoRunner, verify: Callable[[OpenVinoRunner], None]
) -> OpenVinoRunner:
    """Save a network for :func:`load_compiled_runner`, and return it as that function does.

    Args:
        folder: cache folder.
        key: identifies the weights and the input size.
        runner: the network.
        verify: raises an exception if the outputs of the saved network are wrong; the file is
            removed then.

    Raises:
        Exception: it cannot be exported or written, or ``verify`` raised it.
    """
    file = _describe_file(key, runner.kind, runner.threads)
    file.write(folder, CompiledNetwork(*runner.export()))
    try:
        saved = load_compiled_runner(folder, key, runner.kind)
        if saved is None:
            raise OSError("the compiled network cannot be read")
        verify(saved)
    except Exception:
        file.remove(folder)
        raise
    prune_cache(folder, (COMPILED_SUFFIX,), MAX_COMPILED_FILES)
    return saved


def _describe_file(key: str, kind: RunnerKind, threads: int) -> CompiledFile:
    packages = " ".join(f"{name} {version(name)}" for name in NETWORK_PACKAGES)
    return CompiledFile(key, kind, machine_id(), packages, threads)


def _single_stream_loader(folder: Path, file: CompiledFile) -> Callable[[], Any]:
    def load() -> Any:
        """Return the compiled network; None if the file was damaged or deleted meanwhile."""
        network = file.read(folder)
        if network is None:
            return None
        return openvino_runner.import_compiled(network.single_stream, file.kind, file.threads, 1)

    return load
