"""What comes back: data, and nothing that shows it."""
