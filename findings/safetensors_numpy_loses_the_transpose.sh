#!/usr/bin/env bash
# safetensors 0.8.0: safetensors.numpy writes the memory of a transposed array under the shape of the transpose.
#
# The layers of Keras and Flax are converted to those of torch by kernel.T. In 0.7.0 save and save_file wrote the values of
# such an array; since 0.8.0 they copy its bytes from where they lie, which are those of the array before the transpose. The
# header has the new shape, so the file loads everywhere, with the right shape and dtype and the weights in a wrong order. The
# documentation asks for "contiguous and dense" arrays; one in Fortran order is both, and nothing checks it. safetensors.torch
# refuses the same tensor with a ValueError. Reported upstream for the components of a PCA (issue 825 of safetensors).
#
# Seen, for the transpose of [[0, 1, 2], [3, 4, 5]]:
#   0.7.0: [[0, 3], [1, 4], [2, 5]]
#   0.8.0: [[0, 1], [2, 3], [4, 5]]
# Exits with 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 0.7.0 0.8.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q numpy==2.4.6 "safetensors==$version"
    "$folder/$version/bin/python" - "$version" "$folder/kernel.safetensors" <<'PY'
import sys

import numpy as np
from safetensors.numpy import load, load_file, save, save_file

version, file = sys.argv[1:]
kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
save_file({"weight": kernel.T}, file)
weight = load_file(file)["weight"]
print(f"{version}: {weight.astype(int).tolist()}")
assert np.array_equal(load(save({"weight": kernel.T}))["weight"], weight)
assert np.array_equal(weight, kernel.T if version == "0.7.0" else kernel.reshape(3, 2))
save_file({"weight": np.ascontiguousarray(kernel.T)}, file)
assert np.array_equal(load_file(file)["weight"], kernel.T)
PY
done
