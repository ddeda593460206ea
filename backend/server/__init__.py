"""The HTTP server for Label Studio, and the adapter for the ``label-studio-ml`` server."""
