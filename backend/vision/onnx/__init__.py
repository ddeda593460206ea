"""Networks as ONNX: what others need to run a version without this project."""
