"""Run networks on the fastest runtime of this machine, with the same outputs as torch."""

from backend.vision.runtime.fastest_runner import RunnerSpec, select_fastest_runner
from backend.vision.runtime.runner import Outputs, Runner, RunnerKind, TorchRunner

__all__ = ["Outputs", "Runner", "RunnerKind", "RunnerSpec", "TorchRunner", "select_fastest_runner"]
