"""Prelabel: a Label Studio ML backend that learns while people label."""
