"""Run a version on images: embeddings, detections, predictions, and smart tools."""
