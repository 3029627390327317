"""The life of a chain of thought, over token ids alone."""
