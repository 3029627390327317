"""The parts of `Rank1`. Read `call.py` first: it takes one call's pairs through the decoder."""
