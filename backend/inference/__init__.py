"""Running the live version: images, embeddings, detections, predictions, smart tools."""
