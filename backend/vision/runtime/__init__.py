"""Networks run the fastest way that this machine offers, with torch's results."""

from backend.vision.runtime.fastest_runner import select_fastest_runner
from backend.vision.runtime.runner import Outputs, Runner, RunnerKind, TorchRunner

__all__ = ["Outputs", "Runner", "RunnerKind", "TorchRunner", "select_fastest_runner"]
