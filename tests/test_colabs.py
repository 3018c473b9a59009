"""The notebooks of colabs/: committed clean, and each runs from top to bottom and shows what its text says."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parents[1]
SECONDS = 900  # a cell, one of which runs a whole study

# What replaces a notebook's parameters, so that it takes a minute. All but the last share the stages of one study.
SMALL: dict[str, dict[str, Any]] = {
    "01_quickstart": {"STUDY": "small"},
    "02_best_of_n": {"STUDY": "small", "N": 32},
    "03_reward_model": {"STUDY": "small"},
    "04_ppo_diagnosis": {"STUDY": "small", "STEPS": 20},
    "05_diversity": {},
}

# What a notebook's text says of its numbers, as its last cell. The margins are wide: other machines round otherwise.
CLAIMS = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "golden" / "claims").iterdir())}


def read(name: str) -> NotebookNode:
    return nbformat.read(ROOT / "colabs" / f"{name}.ipynb", as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook: NotebookNode) -> dict[str, Any]:
    """What the cell with the tag `parameters` sets."""
    [cell] = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    values: dict[str, Any] = {}
    exec(cell.source, values)
    return {name: value for name, value in values.items() if name.isupper()}


def test_every_notebook_is_run() -> None:
    assert sorted(path.stem for path in (ROOT / "colabs").glob("*.ipynb")) == list(SMALL) == list(CLAIMS)


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_is_committed_without_what_a_run_leaves(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}


@pytest.mark.parametrize("name", SMALL)
def test_all_begin_with_the_same_setup_and_their_parameters(name: str) -> None:
    notebook = read(name)
    setup, second = code(notebook)[:2]
    assert setup.source == code(read("01_quickstart"))[0].source
    assert second.metadata["tags"] == ["parameters"]
    values = parameters(notebook)
    assert set(SMALL[name]) <= set(values) and "RUNS" in values
    assert "STUDY" not in values or importlib.util.find_spec(f"configs.{values['STUDY']}")


@pytest.mark.parametrize("name", SMALL)
def test_links_lead_somewhere(name: str) -> None:
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    targets = [found for found in re.findall(r"\]\(([^)#]+)", text) if not found.startswith("https://")]
    assert all((ROOT / "colabs" / target).exists() for target in targets), targets


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("colabs")


@pytest.mark.soak
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_and_shows_what_it_says(name: str, runs: Path) -> None:
    notebook = read(name)
    changed = SMALL[name] | {"RUNS": str(runs / SMALL[name].get("STUDY", name))}
    second = notebook.cells.index(code(notebook)[1])
    notebook.cells.insert(second + 1, new_code_cell("\n".join(f"{key} = {value!r}" for key, value in changed.items())))
    notebook.cells.append(new_code_cell(CLAIMS[name].strip()))
    place = {"metadata": {"path": str(ROOT / "colabs")}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()
