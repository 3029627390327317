"""Where float16 was too small: its values end at 65,504, and those of a layer's output may not."""

from rank1_hf.decoding.kv_cache import KVCache, RowKV


def overflown_layer(cache: KVCache, row: RowKV, n_layers: int) -> int:
    """The layer whose output is NaN or inf: the one before the first whose keys and values are, or the last."""
    for layer in range(n_layers):
        if not all(bool(states.isfinite().all()) for states in cache.read(row, layer, row.length)):
            return max(layer - 1, 0)
    return n_layers - 1
