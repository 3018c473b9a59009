import json
import math
import re
import shutil
import statistics
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.length_control import length_controlled_win_rate
from rlhf_jax.metrics.ranking import bradley_terry
from rlhf_jax.metrics.statistics import t_interval
from rlhf_jax.metrics.winrate import generalisation_gap, preferences_by_prompt
from rlhf_jax.report.study import read_study, require_seeds_of_one_study, with_ood
from rlhf_jax.report.summary import summarise
from rlhf_jax.stages import report
from rlhf_jax.stages.report import Config

MODELS = {"sft": 0.45, "ppo": 0.62, "bon": 0.58}
PER_INPUT = {"sft": 0.81, "ppo": 0.34}
HOSTILE = '</script><script>alert("x")</script><b>&amp; \u2028 $a_b$'
HELD_OUT = {
    "eval/validation/accuracy_standard_error": 0.05,
    "eval/validation/calibration_error": 0.08,
    "eval/ood_test/accuracy": 0.55,
    "eval/ood_test/accuracy_standard_error": 0.06,
}
POOL_TOO_SMALL = "needs simulated Bo16 sets from a pool of at least 4N"


def metric(mean: float, error: float = 0.01, n: int = 12) -> dict[str, Any]:
    return {"mean": mean, "standard_error": error, "n": n}


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def dump_lines(path: Path, values: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_study(
    folder: Path, seed: int = 0, prompts: int = 12, outputs: int = 4, steps: int = 30, words: int = 12, **config: Any
) -> Path:
    """A run folder as a finished study leaves it. Every number in it is a function of the seed."""
    rng = np.random.default_rng(seed)
    splits = {"id_test": prompts, "ood_test": prompts // 2}
    vocabulary = [f"word{index}" for index in range(300)]

    def text(length: int) -> str:
        return " ".join(rng.choice(vocabulary, length))

    prompt = {
        (split, index): f"PACKAGE: p{index % 7}\nNAME: p{index % 7}.f{index}\nTEXT: {text(6 * words)}\nTL;DR:"
        for split, count in splits.items()
        for index in range(count)
    }
    reference = {key: text(words) for key in prompt}
    judgements, models = [], {}
    for model, skill in MODELS.items():
        rows = []
        for split, index in prompt:
            rewards = rng.normal(skill, 1, outputs).round(3).tolist()
            about = {"id": f"{split}/{index}", "split": split}
            sampled = {
                "prompt": prompt[split, index],
                "reference": reference[split, index],
                "outputs": [text(words) for _ in range(outputs)],
                "rewards": rewards,
                "finish": ["eos"] * (outputs - 1) + ["length"],
                "selected": int(np.argmax(rewards)) if model == "bon" else None,
                "temperature": 0.7 if model == "bon" else 1.0,
            }
            rows.append(about | sampled | {"model": "tiny", "checkpoint": "c", "n": outputs, "seed": seed})
            for against in [side for side in ("reference", "sft") if side != model]:
                preference = 1 + float(rng.random() < skill - 0.1 * (split == "ood_test"))
                scores = {
                    "score": round(float(rng.normal(0.5, 0.1)), 3),
                    "against_score": 0.5,
                    "judge": "gold (minilm)",
                }
                judgements.append(about | {"model": model, "against": against, "preference": preference} | scores)
        dump_lines(folder / f"{model}.jsonl", rows)
        shift = float(rng.normal(0, 0.01))
        inside = metric(PER_INPUT[model] + shift) if model in PER_INPUT else {"not_computed": POOL_TOO_SMALL}
        across = metric(0.87 + shift, 0.004) | {"interval": [0.8622, 0.8794]}
        models[model] = {
            split: {
                "prompts": count,
                "outputs": outputs,
                "temperature": rows[0]["temperature"],
                "length": metric(11.3 + shift, 0.4),
                "rouge_l": metric(0.214 + shift),
                "copied": metric(0.31 + shift, 0.02),
                "finished": metric(0.75, 0.01),
                "reward": metric(skill + shift, 0.11),
                "per_input": {"ead": inside, "sentence_bert": inside},
                "across_input": {"ead": across, "sentence_bert": across},
            }
            for split, count in splits.items()
        }
    dump(folder / "evaluate" / "evaluation.json", {"encoder": "minilm", "models": models})
    dump_lines(folder / "judge" / "judgements.jsonl", judgements)
    curve = np.exp(-np.arange(steps) / (steps / 3))
    logged: dict[str, list[dict[str, float]]] = {"sft": [], "reward": [], "ppo": []}
    for step, value in enumerate(curve):
        logged["sft"].append({"loss": 2 + value, "learning_rate": 1e-4})
        logged["reward"].append({"loss": 0.7, "accuracy": 0.75 - value / 4})
        logged["ppo"].append({"score": 1 - value, "kl_k1": 0.1 * step + seed, "kl_k3": 0.11 * step, "entropy": 2.0})
        if step % 10 == 9:
            logged["sft"][-1]["eval/validation/loss"] = 2.1 + value
            logged["reward"][-1] |= HELD_OUT | {"eval/validation/accuracy": 0.6 + 0.01 * seed}
    for stage, lines in logged.items():
        dump_lines(folder / stage / "metrics.jsonl", [{"step": step} | line for step, line in enumerate(lines)])
    bins = [{"low": 0.5, "high": 0.55, "confidence": 0.53, "accuracy": 0.5, "n": 10}]
    bins.append({"low": 0.9, "high": 0.95, "confidence": 0.92, "accuracy": 0.75, "n": 4})
    quality = {split: {"calibration_error": 0.07, "calibration": bins} for split in ("validation", "ood_test")}
    dump(folder / "reward" / "quality.json", {"step": steps, "splits": quality})
    dump(folder / "prepare" / "corpus.json", {"fingerprint": "f" * 16, "counts": {"train": 100}})
    stages = {"sft": {"seed": seed, "learning_rate": 1e-4}}
    dump(folder / "config.json", {"stage": "pipeline", "stages": stages, **config})
    return folder


def make_config(*runs: Path, **changes: Any) -> Config:
    settings = {
        "stage": "report",
        "title": "A study",
        "runs": tuple(map(str, runs)),
        "evaluation": "evaluate/evaluation.json",
        "judgements": "judge/judgements.jsonl",
        "ood": "ood_test",
        "samples": {model: f"{model}.jsonl" for model in MODELS},
        "training": {stage: f"{stage}/metrics.jsonl" for stage in ("sft", "reward", "ppo")},
        "reward_vs_kl": "",
        "quality": "reward/quality.json",
        "notes": ("A note.",),
    }
    return Config(**(settings | changes))


def rows_of(config: Config) -> dict[str, Any]:
    """The rows of the report's tables, without the time that plots take."""
    paths = config.evaluation, config.judgements, config.samples, config.training
    studies = [with_ood(read_study(Path(run), *paths), config.ood) for run in config.runs]
    require_seeds_of_one_study(studies)
    return summarise(studies).rows


def rows(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "report.json").read_text())["models"]


def page(workdir: Path) -> str:
    return (workdir / "report.html").read_text()


def embedded(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(found[1])


class Page(HTMLParser):
    """Tags with attributes, ids, and whether every element that was opened is closed in order."""

    VOID = {"meta", "input", "br", "link", "img"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def workdir(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("report")
    report.run(make_config(study), workdir)
    return workdir


def test_win_rates_are_those_of_the_judgements(study: Path, workdir: Path) -> None:
    judged = lines_of(study / "judge/judgements.jsonl")

    def won(against: str, split: str) -> list[float]:
        return [
            100 * (j["preference"] - 1)
            for j in judged
            if (j["model"], j["against"], j["split"]) == ("ppo", against, split)
        ]

    row = rows(workdir)["ppo"]
    for name, against in (("win_rate", "reference"), ("head_to_head", "sft")):
        for split in ("id_test", "ood_test"):
            fractions = won(against, split)
            assert row[name][split]["mean"] == pytest.approx(statistics.fmean(fractions))
            expected = statistics.stdev(fractions) / math.sqrt(len(fractions))
            assert row[name][split]["standard_error"] == pytest.approx(expected)
    gap = statistics.fmean(won("reference", "id_test")) - statistics.fmean(won("reference", "ood_test"))
    assert row["win_rate"]["gap"]["mean"] == pytest.approx(gap)


def test_length_control_strength_and_the_gaps_interval_are_those_of_their_functions(study: Path, workdir: Path) -> None:
    judged = lines_of(study / "judge/judgements.jsonl")
    samples = {line["id"]: line for line in lines_of(study / "bon.jsonl")}
    row = rows(workdir)["bon"]
    preferences = {split: preferences_by_prompt(judged, "bon", "reference", split) for split in ("id_test", "ood_test")}
    for split, found in preferences.items():
        answered = [samples[key] for key in found]
        controlled = length_controlled_win_rate(
            list(found.values()),
            [len(one["outputs"][one["selected"]]) for one in answered],
            [len(one["reference"]) for one in answered],
        )
        assert row["length_controlled"][split]["mean"] == pytest.approx(controlled["win_rate"])
        assert row["length_controlled"][split]["standard_error"] == pytest.approx(controlled["standard_error"])
        entries = bradley_terry([line for line in judged if line["split"] == split])
        [ranked] = [entry for entry in entries if entry["model"] == "bon"]
        assert row["strength"][split]["mean"] == pytest.approx(ranked["strength"])
        width = ranked["interval"][1] - ranked["interval"][0]
        assert row["strength"][split]["standard_error"] == pytest.approx(width / 3.92, rel=1e-3)
    gap = generalisation_gap(*(list(found.values()) for found in preferences.values()))
    assert row["win_rate"]["gap"]["interval"] == pytest.approx(gap["interval"])


def test_the_reward_model_has_a_table_of_its_held_out_pairs_and_its_calibration_is_drawn_per_split(
    workdir: Path,
) -> None:
    models = json.loads((workdir / "report.json").read_text())["reward_models"]
    assert list(models) == ["reward"]
    assert models["reward"]["accuracy"]["validation"]["mean"] == pytest.approx(60.0)
    assert models["reward"]["accuracy"]["ood_test"]["standard_error"] == pytest.approx(6.0)
    assert models["reward"]["calibration_error"]["validation"]["mean"] == 0.08
    assert models["reward"]["calibration_error"]["ood_test"] == {"not_computed": "it was not logged"}
    assert "| reward | 60.0±5.0 | 55.0±6.0 | 0.080 | - [1] |" in (workdir / "report.md").read_text()
    for split in ("validation", "ood_test"):
        assert f"<h4>Reliability, {split}</h4>" in page(workdir)
    assert "the calibration error is 0.070: 0.50 of 10 at 0.53; 0.75 of 4 at 0.92." in page(workdir)


def test_intervals_of_diversity_have_a_table_in_files(workdir: Path) -> None:
    assert rows(workdir)["ppo"]["across_input_ead"]["id_test"]["interval"] == [0.8622, 0.8794]
    text = (workdir / "report.md").read_text()
    ends = "[0.862, 0.879]"
    assert f"| sft | {' | '.join(['- [1]'] * 4 + [ends] * 4)} |" in text.split("## Diversity, 95 % intervals")[1]
    assert "not computed: its stage computed no interval" in text
    assert "Brackets are 95 % intervals by a bootstrap over prompts, across inputs by their half-samples." in text
    assert (workdir / "tables.tex").read_text().count(f"${ends}$") == page(workdir).count(ends) == 3 * 4


JUDGE = {
    "judge": "some-model (tldr, both orders)",
    "matches": 40,
    "identical": 3,
    "answers": 1074,
    "reminded": 5,
    "unparsable": 2,
    "first_shown_wins": metric(53.25, 2.0),
    "order_consistency": metric(88.0, 3.0),
    "self_consistency": {"not_computed": "no question has two answers"},
    "spent": {"prompt_tokens": 12_345, "answer_tokens": 678, "usd": 0.0, "uncounted": 0},
}


def test_a_language_model_as_the_judge_has_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "study")
    dump(study / "judge" / "judge.json", JUDGE)
    report.run(make_config(study, training={}), tmp_path)
    text = (tmp_path / "report.md").read_text().split("## Language model as the judge")[1]
    cells = "40 | 3 | 1074 | - [1] | 5 | 2 | 53.2±2.0 | 88.0±3.0 | - [2] | 12345 | 678 | - [3]"
    assert f"| some-model (tldr, both orders) | {cells} |" in text
    assert "[1] not computed: judge.json has no ties" in text
    assert "[2] not computed: no question has two answers" in text
    assert "[3] not computed: no prices were given" in text
    assert "- equal: the two texts are the same, so nothing was asked;" in text
    assert JUDGE["judge"] in page(tmp_path)
    assert "model as the judge" not in capsys.readouterr().out, "too wide for it"


def test_latex_tables_have_their_columns_and_no_bare_special_character(workdir: Path) -> None:
    text = (workdir / "tables.tex").read_text()
    tabulars = re.findall(r"\\begin\{tabular\}\{l(r+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert [len(columns) for columns, _ in tabulars] == [9, 5, 8, 8, 4, 2, 8]
    for columns, body in tabulars:
        for line in body.split(r"\midrule")[1].splitlines()[1:-1]:
            assert line.count(" & ") == len(columns) and line.endswith(r" \\")
    assert not re.search(r"(?<!\\)[%#_]", text)


def test_kl_is_zero_for_the_baseline_last_logged_for_a_policy_and_analytic_for_best_of_n(workdir: Path) -> None:
    models = rows(workdir)
    assert [models["sft"]["kl"][k]["mean"] for k in ("k1", "k3")] == [0, 0]
    assert [models["ppo"]["kl"][k]["mean"] for k in ("k1", "k3")] == pytest.approx([2.9, 3.19])
    assert [models["bon"]["kl"][k]["mean"] for k in ("k1", "k3")] == pytest.approx([math.log(4) - 0.75] * 2)


def test_what_is_not_computed_says_why_everywhere(workdir: Path) -> None:
    assert rows(workdir)["bon"]["per_input_ead"]["id_test"] == {"not_computed": POOL_TOO_SMALL}
    assert POOL_TOO_SMALL in page(workdir)
    assert POOL_TOO_SMALL in (workdir / "report.md").read_text()


def test_console_is_aligned_within_120_columns(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.run(make_config(study), tmp_path)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    assert "simulated gold scorer" in " ".join(printed.split())
    blocks = [block.splitlines() for block in printed.split("\n\n")]
    tables = [block for block in blocks if len(block) > 2 and block[2].startswith("model")]
    assert len(tables) == 5
    for table, names in zip(tables, [*[list(MODELS)] * 4, ["reward"]], strict=True):
        assert len({len(line) for line in table[1 : 3 + len(names)]}) == 1
        assert [line.split()[0] for line in table[3 : 3 + len(names)]] == names


def test_same_input_gives_the_same_bytes_wherever_it_is(study: Path, workdir: Path, tmp_path_factory) -> None:
    tmp_path = tmp_path_factory.mktemp("again")
    report.run(make_config(shutil.copytree(study, tmp_path_factory.mktemp("elsewhere") / "moved")), tmp_path)
    names = {"report.html", "report.json", "report.md", "tables.tex"}
    for name in names:
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == names


def test_page_is_one_well_formed_file_that_loads_nothing(workdir: Path) -> None:
    html = page(workdir)
    parsed = Page(html)
    assert parsed.open == []
    for tag, attributes in parsed.tags:
        assert tag not in {"link", "img", "iframe", "image"}
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert not re.search(r"url\((?!#)|@import", html)


def test_page_can_be_used_without_sight_or_mouse(workdir: Path) -> None:
    parsed = Page(page(workdir))
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {attributes["aria-labelledby"] for _, attributes in parsed.tags if "aria-labelledby" in attributes}
    targets = {attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"}
    assert named | targets <= set(ids)
    counts = {name: sum(tag == name for tag, _ in parsed.tags) for name in ("caption", "svg", "h1", "main")}
    assert counts["caption"] == 7 and counts["h1"] == 1 and counts["main"] == 1
    alternatives = [attributes["aria-label"] for _, attributes in parsed.tags if attributes.get("role") == "img"]
    assert len(alternatives) == counts["svg"] == 13 and all(alternatives)
    assert all(attributes.get("scope") for tag, attributes in parsed.tags if tag == "th")


def test_plots_are_xml_in_the_colours_of_the_page(workdir: Path) -> None:
    drawn = re.findall(r"<svg.*?</svg>", page(workdir), re.DOTALL)
    assert drawn
    for svg in drawn:
        ElementTree.fromstring(svg)
        assert not re.search(r"#[0-9a-f]{6}\b", svg)
        assert "var(--ink)" in svg


def test_a_bar_of_nothing_is_drawn_and_texts_have_their_own_direction(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", steps=3)
    judged = study / "judge/judgements.jsonl"
    lost = [line | {"preference": 1.0} if line["split"] == "ood_test" else line for line in lines_of(judged)]
    dump_lines(judged, lost)
    report.run(make_config(study, training={}), tmp_path)
    drawn = page(tmp_path).split("<h4>Wins against the reference</h4>")[1].split("</svg>")[0]
    ends = re.findall(r'<use xlink:href="#[^"]*" x="([\d.]+)"[^>]*style="[^"]*stroke: var\(--series', drawn)
    assert len(ends) == 2 * len(MODELS) and ends.count(min(ends, key=float)) == len(MODELS), "one of each is at 0 %"
    assert 'node.dir = "auto"' in page(tmp_path) and '<h1 dir="auto">' in page(tmp_path)


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    path = study / "sft.jsonl"
    lines = lines_of(path)
    lines[0]["prompt"] = lines[0]["reference"] = lines[0]["outputs"][0] = HOSTILE
    dump_lines(path, lines)
    evaluation = json.loads((study / "evaluate/evaluation.json").read_text())
    evaluation["models"][HOSTILE] = evaluation["models"]["sft"]
    dump(study / "evaluate/evaluation.json", evaluation)
    samples = {"sft": "sft.jsonl", HOSTILE: "sft.jsonl"}
    report.run(make_config(study, title=HOSTILE, notes=(HOSTILE,), samples=samples), tmp_path / "report")
    html = page(tmp_path / "report")
    parsed = Page(html)
    assert sum(tag == "script" for tag, _ in parsed.tags) == 2
    assert not any(tag == "b" for tag, _ in parsed.tags)
    first = embedded(html)["prompts"][0]
    assert first["prompt"] == first["reference"] == first["answers"][0]["outputs"][0] == HOSTILE


def test_browser_holds_every_output_of_the_prompts_it_shows(study: Path, workdir: Path) -> None:
    data = embedded(page(workdir))
    assert data["models"] == list(MODELS)
    assert data["shown"] == data["of"] == {"id_test": 12, "ood_test": 6}
    line, answer = lines_of(study / "bon.jsonl")[3], data["prompts"][3]["answers"][2]
    for name in ("outputs", "rewards", "finish", "selected"):
        assert answer[name] == line[name]
    assert set(answer["verdict"]) == {"preference", "score", "against_score"}


def test_embedded_prompts_are_capped_and_counted(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", prompts=90, outputs=2, steps=3)
    report.run(make_config(study, training={}), tmp_path)
    data = embedded(page(tmp_path))
    assert data["shown"] == {"id_test": 40, "ood_test": 40} and data["of"] == {"id_test": 90, "ood_test": 45}
    ids = [entry["id"] for entry in data["prompts"] if entry["split"] == "id_test"]
    assert ids[0] == "id_test/0" and ids[-1] == "id_test/87" and len(set(ids)) == 40
    assert "40 of 90 id_test prompts" in page(tmp_path)


def test_long_texts_keep_the_page_under_two_megabytes(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", prompts=40, outputs=16, steps=3, words=300)
    report.run(make_config(study, training={}), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    assert 1 <= embedded(page(tmp_path))["shown"]["id_test"] < 40


def test_missing_training_metrics_leave_a_sentence_and_no_empty_plot(study: Path, tmp_path: Path) -> None:
    training = {"sft": "sft/metrics.jsonl", "ppo": "absent/metrics.jsonl"}
    report.run(make_config(study, training=training), tmp_path)
    html = page(tmp_path)
    assert "there is no policy optimisation to draw" in html
    assert "no kl_k1 in its training metrics" in html
    assert html.count("<svg") == 9


def test_scalars_that_are_null_or_unknown_are_no_reason_to_fail(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    lines = [{"step": 1, "score": None, "kl_k1": 0.5, "kl_k3": None, "surprise": [1]}, {"step": 2, "kl_k1": None}]
    dump_lines(study / "ppo/metrics.jsonl", lines)
    report.run(make_config(study), tmp_path)
    kl = rows(tmp_path)["ppo"]["kl"]
    assert kl["k1"]["mean"] == 0.5 and "not_computed" in kl["k3"]
    assert "hold no score" in page(tmp_path)


def test_seeds_are_averaged_with_the_error_over_seeds(tmp_path: Path) -> None:
    runs = [write_study(tmp_path / f"seed{seed}", seed) for seed in range(3)]
    single = [rows_of(make_config(run)) for run in runs]
    report.run(make_config(*runs), tmp_path / "report")
    merged = rows(tmp_path / "report")
    for name, part in (("win_rate", "gap"), ("head_to_head", "ood_test"), ("kl", "k1"), ("per_input_ead", "id_test")):
        means, found = [one["ppo"][name][part]["mean"] for one in single], merged["ppo"][name][part]
        assert (found["n"], found["mean"]) == (3, pytest.approx(statistics.fmean(means)))
        assert found["standard_error"] == pytest.approx(statistics.stdev(means) / math.sqrt(3))
    gaps = [one["ppo"]["win_rate"]["gap"]["mean"] for one in single]
    assert merged["ppo"]["win_rate"]["gap"]["interval"] == pytest.approx(t_interval(gaps, -100, 100))
    for row in merged.values():
        for part in (*row["win_rate"].values(), *row["per_input_sentence_bert"].values(), row["kl"]["k3"]):
            low, high = part.get("interval", (0, 0))
            assert -100 <= low <= high <= 100 and (low >= 0 or part is row["win_rate"]["gap"])
    judging = json.loads((tmp_path / "report" / "report.json").read_text())["reward_models"]["reward"]
    accuracy = judging["accuracy"]["validation"]
    assert (accuracy["mean"], accuracy["standard_error"]) == pytest.approx((61.0, 1 / math.sqrt(3)))
    assert "not_computed" in merged["bon"]["per_input_ead"]["id_test"]
    html = page(tmp_path / "report")
    assert "3 seeds" in html and "4.3 times" in html and "of run seed0" in html


@pytest.mark.parametrize(
    "config_of",
    [
        lambda folder, n: {"sft": {"seed": n, "mesh": {"data": n + 1, "fsdp": 1}}},
        lambda folder, n: {"whole": f"{folder}/sft", "written": f"{{workdir}}/{n}/sft", "shared": "{workdir}/0/sft"},
    ],
    ids=["mesh", "paths"],
)
def test_meshes_and_paths_into_the_run_are_no_difference_between_seeds(tmp_path: Path, config_of: Any) -> None:
    runs = [write_study(tmp_path / f"{n}", n, steps=3, **config_of(tmp_path / f"{n}", n)) for n in range(2)]
    assert rows_of(make_config(*runs))["sft"]["reward"]["id_test"]["n"] == 2


def test_another_split_may_be_the_one_out_of_distribution(study: Path, tmp_path: Path) -> None:
    """The same study with that split under another name, and with id_test's copy under the name that it had."""
    expected = rows_of(make_config(study))
    files = ["judge/judgements.jsonl", *(f"{model}.jsonl" for model in MODELS)]
    for name in files:
        lines = lines_of(study / name)
        moved = [line | {"split": "hard_test"} if line["split"] == "ood_test" else line for line in lines]
        known = [line for line in lines if line["split"] == "id_test"]
        again = [line | {"split": "ood_test", "id": f"copy of {line['id']}"} for line in known]
        dump_lines(tmp_path / name, [*moved, *again])
    evaluation = json.loads((study / "evaluate" / "evaluation.json").read_text())
    for splits in evaluation["models"].values():
        splits |= {"hard_test": splits["ood_test"], "ood_test": splits["id_test"]}
    dump(tmp_path / "evaluate" / "evaluation.json", evaluation)
    (tmp_path / "ppo").symlink_to(study / "ppo")
    moved = make_config(tmp_path, ood="hard_test")
    assert rows_of(moved) == expected != rows_of(make_config(tmp_path))
    with pytest.raises(UserError, match=r"ood is 'hard', and .* has no samples of sft on it"):
        rows_of(make_config(tmp_path, ood="hard"))


@pytest.mark.parametrize(
    ("seed", "config", "message"),
    [
        (1, {"beta": 0.2, "extra": {"seed": 1, "x": 1}}, r"differ in beta, extra\.x;"),
        (0, {"beta": 0.1}, "same seed"),
        (1, None, "b has no config.json"),
    ],
)
def test_runs_that_are_not_seeds_of_one_study_are_refused(
    tmp_path: Path, seed: int, config: dict[str, Any] | None, message: str
) -> None:
    one, other = write_study(tmp_path / "a", 0, beta=0.1), write_study(tmp_path / "b", seed, **(config or {}))
    if config is None:
        (other / "config.json").unlink()
    with pytest.raises(UserError, match=message):
        report.run(make_config(one, other), tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("evaluate/evaluation.json", None, r"evaluation\.json does not exist"),
        ("evaluate/evaluation.json", "{", r"evaluation\.json does not parse"),
        ("evaluate/evaluation.json", '{"models": {"sft": {}}}', "models sft; expected ppo"),
        ("judge/judgements.jsonl", "{}\n", r"judgements\.jsonl:1: has no field 'id'"),
        ("judge/judgements.jsonl", "[]\n", r"judgements\.jsonl:1 holds a JSON list"),
        ("sft.jsonl", "", r"sft\.jsonl has no samples"),
        ("ppo.jsonl", "{\n", r"ppo\.jsonl:1"),
        ("reward/quality.json", None, r"quality\.json does not exist"),
        ("reward_vs_kl.json", None, r"reward_vs_kl\.json does not exist"),
        ("reward/quality.json", '{"step": 1}', r"quality\.json: has no field 'splits'"),
        ("reward/quality.json", '{"splits": {"validation": {}}}', "no field 'splits.validation.calibration'"),
        ("reward/quality.json", '{"splits": {"a": {"calibration": [1]}}}', r"'splits.a.calibration\[0\]' is 1"),
        ("judge/judge.json", "{}", r"judge\.json: has no field 'judge'"),
        ("ppo/metrics.jsonl", '{"step": 1}\n{"st', r"metrics\.jsonl:2 does not parse"),
        ("ppo/metrics.jsonl", '{"score": 1}\n', r"metrics\.jsonl:1: has no field 'step'"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, path: str, text: str | None, message: str) -> None:
    study = write_study(tmp_path / "study", steps=3)
    dump(study / "reward_vs_kl.json", {})
    if text is None:
        (study / path).unlink(missing_ok=True)
    else:
        (study / path).write_text(text)
    with pytest.raises(UserError, match=message):
        report.run(make_config(study, reward_vs_kl="reward_vs_kl.json"), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_two_baselines_are_refused(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    path = study / "judge/judgements.jsonl"
    path.write_text(path.read_text().replace('"against": "sft"', '"against": "bon"', 1))
    with pytest.raises(UserError, match="against bon, sft; expected at most one"):
        report.run(make_config(study), tmp_path / "report")


@pytest.mark.parametrize(
    ("judge", "said", "unsaid"),
    [
        ("gold (minilm)", "is the judge&#39;s own", "The judge is gold"),
        ("gold (lexical)", "gold (lexical), is a simulated", "judge&#39;s own"),
        ("some-model", "The judge is some-model; a win rate says only what it prefers.", "simulated gold scorer"),
    ],
)
def test_a_judge_is_introduced_by_its_kind(tmp_path: Path, judge: str, said: str, unsaid: str) -> None:
    study = write_study(tmp_path / "study", steps=3)
    path = study / "judge/judgements.jsonl"
    path.write_text(path.read_text().replace("gold (minilm)", judge))
    report.run(make_config(study, training={}), tmp_path)
    assert said in page(tmp_path) and unsaid not in page(tmp_path)


def test_inference_has_a_table_where_it_was_computed(study: Path, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study")
    path = folder / "evaluate" / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["models"]["sft"]["id_test"]["per_input"]["nli"] = metric(0.123, 0.045)
    dump(path, evaluation)
    report.run(make_config(folder), tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Diversity by inference" in text and "0.123±0.045" in text
    report.run(make_config(study), tmp_path / "without")
    assert "by inference" not in (tmp_path / "without" / "report.md").read_text()


def test_a_frontier_is_drawn_a_split_where_one_is_named(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study")
    curve = [{"n": n, "kl": math.log(n) - (n - 1) / n, "mean": 0.1 * n, "standard_error": 0.05} for n in (1, 2, 3)]
    point = {"score": metric(0.4), "kl_k1": metric(0.3), "kl_k3": metric(0.31)}
    split = {"pools": {"bon": {"temperature": 1.0, "best_of_n": curve}}, "policies": {"ppo": [point]}}
    dump(folder / "reward_vs_kl" / "reward_vs_kl.json", {"id_test": split, "ood_test": split})
    report.run(make_config(folder, reward_vs_kl="reward_vs_kl/reward_vs_kl.json"), tmp_path / "out")
    html = page(tmp_path / "out")
    assert all(f"<h4>Reward against KL, {name}</h4>" in html for name in ("id_test", "ood_test"))
    assert "bon from 0.10 at 0.00 nats to 0.30 at 0.43 nats; ppo from 0.40 at 0.30 nats" in html
    drawn = html.split("<h4>Reward against KL, id_test</h4>")[1].split("</svg>")[0]
    assert set(re.findall(r"--series-\d", drawn)) == {"--series-1", "--series-2"}, "those of ppo and bon"
