"""The models and the oracle of the loop's tests."""

from tests.decoding.conftest import case

__all__ = ["case"]
