"""Detectors of boxes and centre points: training with ultralytics, and inference."""
