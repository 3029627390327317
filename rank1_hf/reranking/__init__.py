"""The parts of `Rank1`, between its methods and the decoder. Read `call.py` first: one call's way through the decoder."""
