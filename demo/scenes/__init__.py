"""Drawn scenes with known truth: plants, strawberries, apples."""
