"""Run the notebooks and keep their figures, without what changes at every run or only lives in a browser.

    python scripts/notebooks.py [notebooks/02_rate_distortion.ipynb ...]

Fails where a cell does, or where a notebook has become larger than LIMIT.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
LIMIT = 900_000
"""Bytes of a notebook with its outputs."""
SECONDS = 600


def cleaned(notebook: Any) -> Any:
    """Without live widgets (their picture stays), times of execution, and progress that was drawn over."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        kept = []
        for output in cell.get("outputs", []):
            output.pop("transient", None)
            if WIDGET not in output.get("data", {}):
                kept.append(output)
        if "outputs" in cell:
            cell.outputs = kept
    return notebook


def run(path: Path) -> None:
    """Run one notebook in its own folder and write it back."""
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    text = json.dumps(cleaned(notebook), indent=1, ensure_ascii=False) + "\n"
    if len(text.encode()) > LIMIT:
        raise SystemExit(f"{path}: {len(text.encode()):,} bytes with its outputs; {LIMIT:,} at most")
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: {time.perf_counter() - started:.0f} s, {len(text.encode()):,} bytes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb")))
    for path in parser.parse_args().notebooks:
        run(path)


if __name__ == "__main__":
    main()
