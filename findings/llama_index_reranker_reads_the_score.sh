#!/usr/bin/env bash
# llama-index-core 0.14.25: with keep_retrieval_score=True, the next reranker reads the score as a part of the document.
#
# SentenceTransformerRerank "keeps the retrieval score in metadata": it writes it into the caller's nodes. Metadata of a node
# are text for every embedder, reranker and LLM that follows, unless their key is excluded, and this one is not. The second
# reranker of a cascade, or the same one a second time, scores "retrieval_score: 0.551225", two line ends and the passage;
# the LLM's prompt has it, too. A node's hash covers its metadata, so a fusion no longer finds that two nodes are one. And
# what a cascade keeps is not the retriever's score, which the first reranker has overwritten.
#
# Seen, when one reranker (a random BERT) is asked twice the same about its own result:
#   keep_retrieval_score=False: cats 0.55, dogs 0.43; again: cats 0.55, dogs 0.43
#   keep_retrieval_score=True: cats 0.55, dogs 0.43; again: dogs 0.46, cats 0.32
# Exits with 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0 llama-index-core==0.14.25
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>errors <<'PY' || { cat errors; exit 1; }
from pathlib import Path

import torch
from llama_index.core.postprocessor import SentenceTransformerRerank
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] retrieval _ score : . 0 1 2 3 4 5 6 7 8 9 cats purr dogs bark when they are happy at night what do"
Path("vocab.txt").write_text("\n".join(WORDS.split()))
BertTokenizerFast("vocab.txt").save_pretrained("reranker")
torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
config = BertConfig(vocab_size=len(WORDS.split()), num_labels=1, initializer_range=0.5, **sizes)
BertForSequenceClassification(config).save_pretrained("reranker")


def rerank_twice(keep):
    reranker = SentenceTransformerRerank(model="reranker", top_n=2, keep_retrieval_score=keep, device="cpu")
    texts = {"cats purr when they are happy": 0.3, "dogs bark at night": 0.9}
    nodes = [NodeWithScore(node=TextNode(text=text), score=score) for text, score in texts.items()]
    rankings = []
    for _ in range(2):
        nodes = reranker.postprocess_nodes(nodes, query_str="what do cats do")
        rankings.append(", ".join(f"{node.node.text[:4]} {node.score:.2f}" for node in nodes))
    print(f"keep_retrieval_score={keep}: {rankings[0]}; again: {rankings[1]}")
    return rankings, nodes[-1].node.get_content(MetadataMode.LLM)


(first, again), text = rerank_twice(keep=False)
assert first == again and text == "dogs bark at night"
(first, again), text = rerank_twice(keep=True)
assert first != again
assert text.startswith("retrieval_score: 0.55") and text.endswith("\n\ncats purr when they are happy")
PY
