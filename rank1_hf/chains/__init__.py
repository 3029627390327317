"""The state of one chain of thought, over token ids alone. Read `chain.py`: `Chain.advance` decides what comes next."""
