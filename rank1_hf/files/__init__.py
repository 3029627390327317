"""What is read from files: documents, collections, runs, qrels."""
