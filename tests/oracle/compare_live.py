"""The oracle, live: fresh references of every case, compared in both directions, as the table in docs/models.md.

    make torch-setup
    .venv/bin/python -m tests.oracle.compare_live --cases llama opt

What runs in torch's environment makes the references, computes the same from this project's exports, and is the other
side of SmolLM2 and of the sentence encoders. `--write` puts the results into docs/models.md and docs/evaluation.md.
Nothing is written unless everything holds.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.page import replace_part
from tests.oracle import comparison, encoders, smollm2
from tests.oracle.cases import BATCHES, CASES, Case

ORACLE = Path(__file__).resolve().parent
ROOT = ORACLE.parents[1]
TORCH_PYTHON = ROOT / ".torch-venv" / "bin" / "python"
MODELS, EVALUATION = ROOT / "docs" / "models.md", ROOT / "docs" / "evaluation.md"
WIDEN = 4  # the goldens' sizes are compared by `make test`

HEADER = """\
| family | preset | features | logits | transformers' own rounding | states, scores | gradients | greedy | export |
|---|---|---|---|---|---|---|---|---|"""


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the table. Errors are those of `comparison`.

    Attributes:
      case: what was compared.
      logits: largest error of any batch.
      rounding: what transformers' logits are off from its own float64, in the same measure.
      states: error of the hidden states and of a reward model's scores.
      gradients: largest error of any tensor.
      greedy: whether the continuations are equal.
      exported: whether this project's export has the same tensors, bit for bit, and transformers computes the same
        logits from it, and the same scores from the export of a reward model.
    """

    case: Case
    logits: float
    rounding: float
    states: float
    gradients: float
    greedy: bool
    exported: bool

    @property
    def holds(self) -> bool:
        close = max(self.logits, self.states) <= comparison.MAX_ERROR
        return close and self.gradients <= comparison.MAX_GRADIENT_ERROR and self.greedy and self.exported

    def row(self) -> str:
        numbers = [f"{number:.0e}" for number in (self.logits, self.rounding, self.states, self.gradients)]
        facts = ["equal" if self.greedy else "DIFFERS", "checked" if self.exported else "DIFFERS"]
        return f"| {' | '.join([self.case.family, self.case.preset, self.case.features, *numbers, *facts])} |"


def run_torch(script: str, *arguments: str | Path) -> str:
    """What one of the scripts beside this one prints in torch's environment. Ends the program if it fails."""
    command = [TORCH_PYTHON, ORACLE / script, *arguments]
    process = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if process.returncode != 0:
        sys.exit(f"{script} ended with status {process.returncode}, 0 was expected.")
    return process.stdout


def compare_cases(names: Sequence[str], folder: Path) -> list[Result]:
    """Makes references below `folder`, compares them, exports them and lets transformers compare the exports."""
    references, exports = folder / "references", folder / "exports"
    run_torch("make_references.py", references, "--widen", str(WIDEN), "--cases", *names)
    results = []
    for name in names:
        reference = comparison.read(references / name)
        expected = reference.expected
        changed = comparison.changed_by_a_round_trip(reference, exports / name / "causal_lm")
        comparison.export_reward_model(reference, exports / name / "reward_model", CASES[name].widened(WIDEN).ids)
        results.append(
            Result(
                case=CASES[name],
                logits=max(comparison.logits_errors(reference).values()),
                rounding=max(float(expected[f"{b}/rounding"] / expected[f"{b}/logits"].std()) for b in BATCHES),
                states=max(comparison.states_and_scores_error(reference)),
                gradients=max(comparison.gradient_errors(reference).values()),
                greedy=bool((comparison.greedy_continuation(reference) == expected["greedy/continuation"]).all()),
                exported=not changed,
            )
        )
        print(f"{name}: compared{'; its export changes ' + ', '.join(changed) if changed else ''}", flush=True)
    exported = json.loads(run_torch("check_export.py", exports, references))
    return [
        dataclasses.replace(
            result,
            exported=result.exported and all([loads_the_same(f"{name}, {k}", **v) for k, v in exported[name].items()]),
        )
        for name, result in zip(names, results, strict=True)
    ]


def loads_the_same(name: str, tensors: Sequence[str], error: float) -> bool:
    """Judges what `check_export.py` says of one export, and says what is wrong."""
    if tensors:
        print(f"{name}: transformers finds these tensors missing, unexpected or misshapen: {', '.join(tensors)}")
    if error > comparison.MAX_EXPORT_ERROR:
        print(f"{name}: the export is off by {error:.1e}, at most {comparison.MAX_EXPORT_ERROR} was expected")
    return not tensors and error <= comparison.MAX_EXPORT_ERROR


def main() -> None:
    parser = argparse.ArgumentParser(description="Every model family against transformers.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--smollm2", action="store_true", help="also SmolLM2 itself: minutes")
    parser.add_argument("--write", action="store_true", help="put the results into docs/; needs all cases")
    args = parser.parse_args()
    if args.write and set(args.cases) != set(CASES):
        parser.error("--write needs all cases")
    if not TORCH_PYTHON.exists():
        sys.exit(f"{TORCH_PYTHON.relative_to(ROOT)} is missing; `make torch-setup` makes it.")

    with tempfile.TemporaryDirectory() as folder:
        results = compare_cases(args.cases, Path(folder))
        table = "\n".join([HEADER, *(result.row() for result in results)])
        print(f"\n{table}\n", flush=True)
        if failed := [name for name, result in zip(args.cases, results, strict=True) if not result.holds]:
            sys.exit(f"The oracle does not hold for {', '.join(failed)}.")
        parts = {MODELS: {"oracle": table}, EVALUATION: {}}
        cosines = encoders.compare(Path(folder) / "encoders", run_torch)
        parts[EVALUATION]["encoders"] = encoders.table(cosines)
        print(f"{parts[EVALUATION]['encoders']}\n", flush=True)
        if failed := [name for name, cosine in cosines.items() if cosine < encoders.MIN_COSINE]:
            sys.exit(f"The oracle does not hold for the sentence encoder {', '.join(failed)}.")
        if args.smollm2:
            agreement = smollm2.compare(Path(folder) / "smollm2", run_torch)
            parts[MODELS]["smollm2"] = agreement.table()
            print(f"{parts[MODELS]['smollm2']}\n", flush=True)
            if not agreement.holds:
                sys.exit("The oracle does not hold for SmolLM2.")
    if args.write:
        for page, contents in parts.items():
            for name, content in contents.items():
                replace_part(page, name, content)


if __name__ == "__main__":
    main()
