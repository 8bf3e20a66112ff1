"""Look inside: pure functions that turn a tokenizer, a checkpoint or a run into plain data, and renderers to text."""
