"""Other ways to train a model of the same shape, each a process of its own; see protocol.py."""
