"""``prelabel advise``."""
import argparse
HELP = "x"
EXAMPLE = "x"
def add_options(parser: argparse.ArgumentParser) -> None:
    """x"""
def run(options: argparse.Namespace) -> dict[str, object]:
    """x"""
    return {}
