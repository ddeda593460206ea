"""ONNX export of encoders, heads and detectors."""
