"""Models: encoders, the embedding cache, the classifier's head. No HTTP, no Label Studio."""
