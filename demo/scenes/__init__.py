"""Draw scenes of plants, strawberries, and apples with their ground truth."""
