"""Image models: decode images, compute embeddings, fit heads, and train and run detectors."""
