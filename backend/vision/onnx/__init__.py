"""ONNX export of encoders, heads and detectors, to run a version without this project."""
