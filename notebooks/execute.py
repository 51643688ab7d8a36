"""Executes notebooks from top to bottom, each in a folder of its own: `make notebooks`.

One kernel does all, as what it imports takes longer than most notebooks; between two it forgets every name.
With names of files it executes those alone. They are saved with their outputs and nothing that changes by itself:
no times, no widgets' identities, always the same metadata.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
# Frozen, what is imported is not looked through for garbage at every reset.
_ANEW = "import gc, os\nos.chdir({folder!r})\ngc.freeze()\n%reset -f\nget_ipython().execution_count = 1"
_DPI = 68  # of figures: what is kept with the sources should be small
_TIMEOUT = 300  # seconds for one cell
_WIDGET = "application/vnd.jupyter.widget-view+json"
# As JupyterLab writes it when it opens one, so that opening one changes nothing.
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "version": "3.11.7",  # whichever runs; with another one JupyterLab changes this line alone
    },
}


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Without what changes from machine to machine, or from one time to the next."""
    notebook.metadata = nbformat.from_dict(_METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(_WIDGET, None)
    return notebook


def all_executed(notebooks: Iterable[NotebookNode], first: str = "pass") -> list[NotebookNode]:
    """The notebooks with fresh outputs, in their order.

    Args:
        notebooks: executed one after another, in place.
        first: code that runs before each of them; the names that it sets are forgotten.

    Raises:
        CellExecutionError: a cell failed; the message has its traceback.
    """
    made = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "matplotlibrc").write_text(f"figure.dpi: {_DPI}\n")
        environment = {**os.environ, "IPYTHONDIR": folder, "MATPLOTLIBRC": folder, "OMP_NUM_THREADS": "1"}
        environment["TQDM_DISABLE"] = "1"  # bars, which say how long something took
        client = NotebookClient(
            nbformat.v4.new_notebook(),
            timeout=_TIMEOUT,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,  # whether two prints are one output depends on time alone
            store_widget_state=False,
            extra_arguments=["--log-level=40"],  # the kernel warns that it listens on this machine
        )
        with client.setup_kernel(env=environment):
            for number, notebook in enumerate(notebooks):
                place = Path(folder, f"notebook-{number}")
                place.mkdir()
                anew = nbformat.v4.new_code_cell(f"{first}\n{_ANEW.format(folder=str(place))}")
                for client.nb in (nbformat.v4.new_notebook(cells=[anew]), notebook):
                    client.execute(cleanup_kc=False)
                made.append(cleaned(notebook))
    return made


def main(names: list[str]) -> None:
    """Executes and saves the notebooks of those names, or all."""
    paths = [Path(name) for name in names] or NOTEBOOKS
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    for path, notebook in zip(paths, all_executed(notebooks), strict=True):
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
