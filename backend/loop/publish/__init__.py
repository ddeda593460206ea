"""Publish the live version: predictions, queue order, auto-accept, thumbnails."""
