"""Linear heads on embeddings: fitting, calibration and cross-validation."""
