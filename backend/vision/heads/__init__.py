"""Heads: the trained layer on embeddings, its fit and its calibration."""
