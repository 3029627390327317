"""What the adapters' tests rerank."""

QUERY = "what carries the weight of an aircraft in flight"
OTHER_QUERY = "how is bread made"
PASSAGES = [
    "Bread is made of flour, water and salt.",
    "The wing carries the weight of the aircraft in flight.",
    "An aircraft is heavy.",
    "In flight the pressure under a wing is higher than the pressure above it.",
]
TOO_LONG = "The wing. " * 200
"""More than the KV memory of the model under test has room for."""
