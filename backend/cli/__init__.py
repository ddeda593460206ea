"""The command ``prelabel``: one module a command, heavy imports inside the functions."""

from backend.cli.main import main

__all__ = ["main"]
