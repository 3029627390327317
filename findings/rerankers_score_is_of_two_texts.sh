#!/usr/bin/env bash
# rerankers 0.10.0: score(query, doc) of a cross-encoder scores the query by itself and the document by itself.
#
# TransformerRanker.score hands (query, doc) to the tokenizer as one argument. rank() hands it a list of such tuples, which
# are pairs; a single tuple of two texts is a batch of two. So score(), which is declared to return a float, returns an
# array of two logits: of a sequence that holds the query only, and of one that holds the document only. The first does not
# depend on the document at all. Both look like scores of the model, an array compares and prints without an error, and
# whoever takes the first value, or the mean, thresholds or sorts by a number without any relevance in it.
# rank(query, [doc]) is the way to a pair's score.
#
# Seen: rank gives the model's logit of the pair; score gives the logits of the two single texts:
#   rank -4.5516, the model on the pair -4.5516
#   score [-4.3725, -4.5676], the model on each text alone [-4.3725, -4.5676]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 rerankers==0.10.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - "$folder/model" <<'PY'
import sys

import numpy as np
import torch
from rerankers import Reranker
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"what is a cat dog animal the sky blue".split()]
tokenizer = BertTokenizerFast(vocab={word: place for place, word in enumerate(words)})
torch.manual_seed(0)
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
config = BertConfig(vocab_size=len(words), num_labels=1, initializer_range=0.5, **sizes)
model = BertForSequenceClassification(config).eval()
for part in (tokenizer, model):
    part.save_pretrained(sys.argv[1])


def logit(*texts):
    with torch.inference_mode():
        return model(**tokenizer(*texts, return_tensors="pt")).logits.item()


query, document = "what is a cat", "a cat is a animal"
ranker = Reranker(sys.argv[1], model_type="cross-encoder", device="cpu", dtype="fp32", verbose=0)
ranked = ranker.rank(query, [document]).results[0].score
scored = np.asarray(ranker.score(query, document))
print(f"rank {ranked:.4f}, the model on the pair {logit(query, document):.4f}")
alone = [logit(query), logit(document)]
print(f"score {scored.round(4).tolist()}, the model on each text alone {np.round(alone, 4).tolist()}")
assert abs(ranked - logit(query, document)) < 1e-4
assert scored.shape == (2,) and np.allclose(scored, alone, atol=1e-4)
assert np.abs(scored - ranked).min() > 1e-3
PY
