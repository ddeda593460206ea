"""Train heads and detectors from labeled samples."""
