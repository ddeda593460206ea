"""Encoders of images and texts, and the embedding cache."""
