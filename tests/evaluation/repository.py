"""A dataset repository of the hub, as it lies on disk after a download."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Parts = Mapping[str, tuple[str, Sequence[Mapping[str, Any]]]]
"""config -> its split, and the rows of that."""


def write_repository(folder: Path, parts: Parts) -> Path:
    """A file for each config, and the README.md that says which is whose."""
    head = ["---", "configs:"]
    for number, (config, (split, rows)) in enumerate(parts.items()):
        file = folder / "data" / f"{number}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        head += [f"- config_name: {config}", "  data_files:", f"  - split: {split}", f"    path: data/{file.name}"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]))
    return folder
