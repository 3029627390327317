"""Text to token ids: the prompt contract, and what pairs may look like."""
