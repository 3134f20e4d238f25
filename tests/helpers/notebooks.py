"""Executing the notebooks of launch/ in a kernel of their own."""

import os
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.helpers.paths import ROOT


def read_notebook(name: str) -> Any:
    return nbformat.read(ROOT / "launch" / f"{name}.ipynb", as_version=4)


def run_notebook(monkeypatch, name: str, **variables) -> list[Any]:
    """The outputs of all cells, with these variables of the environment."""
    for variable, value in (variables | {"XLA_FLAGS": "", "PYTHONPATH": os.getcwd()}).items():
        monkeypatch.setenv(variable, str(value))  # one device, where this process has eight
    notebook = read_notebook(name)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def printed(outputs: list[Any]) -> str:
    return "".join(out.get("text", "") for out in outputs)


def has(outputs: list[Any], kind: str) -> bool:
    """Whether an output is of a kind such as image/png."""
    return any(kind in out.get("data", {}) for out in outputs)
