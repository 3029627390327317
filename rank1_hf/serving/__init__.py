"""An HTTP server with the rerank APIs of Jina, Cohere, vLLM and TEI. Read `app.py` first: it has the routes."""
