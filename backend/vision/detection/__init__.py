"""Detectors for boxes and centre points: train with ultralytics and run on the fastest runtime."""
