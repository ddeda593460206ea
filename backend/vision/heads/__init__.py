"""Linear heads on frozen embeddings: fitting, calibration and cross-validation."""
