"""Training jobs: labeled samples in, a head or a detector out."""
