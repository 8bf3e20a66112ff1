"""tinygpt: one command turns a text file into a tiny language model that writes.

Importing this package does nothing but name its version: no torch, no device, no printing.
"""

__version__ = "0.1.0"
