"""Networks run the fastest way that this machine offers, with torch's results."""

from backend.vision.runtime.fastest_runner import fastest
from backend.vision.runtime.runner import Kind, Outputs, Runner, TorchRunner

__all__ = ["Kind", "Outputs", "Runner", "TorchRunner", "fastest"]
