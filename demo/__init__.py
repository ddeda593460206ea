"""``prelabel demo``: a real Label Studio, a drawn data set, and a simulated annotator."""
