"""The command line ``prelabel``: one module per command, which imports heavy packages lazily."""
