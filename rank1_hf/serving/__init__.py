"""A server: rerank requests over HTTP, in the form that Jina, Cohere, vLLM and TEI speak, from one decode loop."""
