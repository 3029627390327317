"""The operations of a step between its matrix products, one file for each kind of device.

`contract.py` says what each operation computes; `plain.py` computes it with PyTorch alone and is the oracle of the
others. Another device is another file.
"""
