"""What stands between `Rank1` and the decoder."""
