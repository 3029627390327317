"""The parts of `scripts/train_tiny.py`.

`rule.py` says what is to be learnt, `language.py` from which words and sentences, `pairs.py` makes the pairs,
`tokenizer.py` and `model.py` what learns, `lessons.py` trains it, and `evaluation.py` measures it.
"""
