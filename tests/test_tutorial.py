"""The tutorial is a notebook that runs as it stands."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"

pytestmark = pytest.mark.slow


def test_every_cell_runs_and_shows_what_it_promises(tmp_path: Path) -> None:
    """To store its output again: `uv run jupyter execute --inplace docs/tutorial.ipynb`."""
    notebook = nbformat.read(NOTEBOOK, 4)
    client = NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs
    )
    assert "did you mean 'kd'?" in text
    for contender in ("ensemble", "student from scratch", "default KD", "best found"):
        assert contender in text
    assert "'weights.safetensors'" in text
    pages = [output.get("data", {}).get("text/html", "") for output in outputs]
    assert any("image/svg+xml" in page for page in pages)
