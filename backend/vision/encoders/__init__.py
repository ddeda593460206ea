"""Encoders: images and texts to embeddings, and the cache of embeddings."""
