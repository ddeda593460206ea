"""The command line ``prelabel``: one module per command, heavy imports inside the functions."""
