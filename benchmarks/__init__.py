"""Measurements. Each module is one command: `python -m benchmarks.NAME --help`."""
