"""The public predict endpoint: one FastAPI app, run here by ``prelabel endpoint`` and on Modal."""
