"""Example programs that are copied into exported versions; they do not import Prelabel."""
