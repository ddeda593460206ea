"""Run networks on torch or OpenVINO, whichever is faster on this machine."""

from backend.vision.runtime.fastest_runner import RunnerSpec, select_fastest_runner
from backend.vision.runtime.runner import Outputs, Runner, RunnerKind, TorchRunner

__all__ = ["Outputs", "Runner", "RunnerKind", "RunnerSpec", "TorchRunner", "select_fastest_runner"]
