"""The state of one chain of thought, over token ids alone. README.md says which file has what."""
