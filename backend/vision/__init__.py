"""Computer vision: image decoding, encoders, heads and detectors."""
