"""Networks run the fastest way that this machine offers, with torch's results."""

from backend.vision.runtime.runner import Kind, Outputs, Runner, TorchRunner
from backend.vision.runtime.select import fastest

__all__ = ["Kind", "Outputs", "Runner", "TorchRunner", "fastest"]
