"""Reader of the JSON files of a finished study, and the check that several are seeds of one study."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from rlhf_jax.data import records
from rlhf_jax.errors import UserError

ID, OOD = "id_test", "ood_test"


class _Judgement(TypedDict):
    id: str
    split: str
    model: str
    against: str
    preference: float
    score: float
    against_score: float
    judge: str


class _Step(TypedDict):
    step: int


class _Bin(TypedDict):
    confidence: float
    accuracy: float
    n: int


class _SplitQuality(TypedDict):
    calibration: list[_Bin]
    calibration_error: float


class _Quality(TypedDict):
    splits: dict[str, _SplitQuality]


class _Judge(TypedDict):
    judge: str
    answers: int
    spent: dict[str, Any]
    first_shown_wins: dict[str, Any]
    order_consistency: dict[str, Any]
    self_consistency: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """The content of one run folder.

    Attributes:
      folder: the run folder.
      config: its config.json. None if it is missing.
      corpus: its prepare/corpus.json. None if it is missing.
      evaluation: `{"encoder": name, "models": {model: {split: metrics}}}` of the evaluate stage.
      judgements: one dict per prompt, model and opponent, of the judge stage.
      samples: the prompts and outputs of every model.
      training: metrics.jsonl of every training stage, one dict per step. Empty if it is missing.
      reward_vs_kl: reward_vs_kl.json, by split. Empty if the report names no such file.
      quality: the splits of the reward model's quality.json. Empty if the report names no such file.
      judge: judge.json beside the judgements, written for a language model. None for other judges.
    """

    folder: Path
    config: dict[str, Any] | None
    corpus: dict[str, Any] | None
    evaluation: dict[str, Any]
    judgements: list[dict[str, Any]]
    samples: dict[str, list[records.Samples]]
    training: dict[str, list[dict[str, Any]]]
    reward_vs_kl: dict[str, Any]
    quality: dict[str, Any]
    judge: dict[str, Any] | None


def read_study(
    folder: Path,
    evaluation: str,
    judgements: str,
    samples: Mapping[str, str],
    training: Mapping[str, str],
    reward_vs_kl: str = "",
    quality: str = "",
) -> Study:
    """Reads a run folder. The paths are relative to it.

    Raises:
      UserError: a file does not parse, lacks one of the models, or is missing. Metrics of training, config.json and
        corpus.json may be missing.
    """
    if not folder.is_dir():
        raise UserError(f"runs names {folder}, which is not a folder; expected the folder of a finished study.")
    path = folder / evaluation
    evaluated = _object(path)
    for model in samples:
        if model not in evaluated.get("models", {}):
            known = ", ".join(evaluated.get("models", {})) or "none"
            raise UserError(
                f"{path} evaluates the models {known}; expected {model} of the report's samples among them."
            )
    return Study(
        folder=folder,
        config=_optional(folder / "config.json"),
        corpus=_optional(folder / "prepare" / "corpus.json"),
        evaluation=evaluated,
        judgements=records.read_objects(folder / judgements, _Judgement),
        samples={model: _samples(folder / path) for model, path in samples.items()},
        training={
            stage: records.read_objects(folder / path, _Step) if (folder / path).exists() else []
            for stage, path in training.items()
        },
        reward_vs_kl=_object(folder / reward_vs_kl) if reward_vs_kl else {},
        quality=_object(folder / quality, _Quality)["splits"] if quality else {},
        judge=_optional((folder / judgements).with_name("judge.json"), _Judge),
    )


def with_ood(study: Study, split: str) -> Study:
    """Renames `split` to "ood_test" in evaluation, judgements and samples, in place of the split of that name.

    Raises:
      UserError: a model was not sampled on that split.
    """
    if split == OOD:
        return study
    for model, samples in study.samples.items():
        if all(sample.split != split for sample in samples):
            raise UserError(f"ood is {split!r}, and {study.folder} has no samples of {model} on it.")
    places = {ID: ID, split: OOD}

    def moved(splits: Mapping[str, Any]) -> dict[str, Any]:
        return {places[name]: found for name, found in splits.items() if name in places}

    models = {model: moved(splits) for model, splits in study.evaluation["models"].items()}
    return replace(
        study,
        evaluation=study.evaluation | {"models": models},
        judgements=[j | {"split": places[j["split"]]} for j in study.judgements if j["split"] in places],
        samples={
            model: [replace(sample, split=places[sample.split]) for sample in samples if sample.split in places]
            for model, samples in study.samples.items()
        },
    )


def require_seeds_of_one_study(studies: Sequence[Study]) -> None:
    """Several runs may be averaged only if their configs differ in seeds, and in nothing else.

    Every key named `seed` may differ, at any depth. So may the mesh, whose size changes only rounding. A path may
    differ in the run's own folder, written in full or as in a study of several runs (`{workdir}/<run>`).

    Raises:
      UserError: two runs differ in other keys, which are named, or have the same seed.
    """
    if len(studies) == 1:
        return
    for study in studies:
        if study.config is None:
            raise UserError(f"{study.folder} has no config.json, which says whether several runs differ only in seed.")
    for index, study in enumerate(studies):
        for earlier in studies[:index]:
            differing = _differing_keys(earlier, study)
            seeds = [key for key in differing if key.rpartition(".")[2] == "seed"]
            if len(differing) > len(seeds):
                others = ", ".join(key for key in differing if key not in seeds)
                raise UserError(
                    f"{earlier.folder} and {study.folder} differ in {others}; "
                    "expected runs whose config.json differ only in seed."
                )
            if not seeds:
                raise UserError(f"{earlier.folder} and {study.folder} have the same seed; expected one run per seed.")


def _differing_keys(one: Study, other: Study) -> list[str]:
    ours, theirs = dict(_leaves(one.config)), dict(_leaves(other.config))
    return sorted(
        key
        for key in ours.keys() | theirs.keys()
        if ours.get(key) != theirs.get(key)
        and _portable(ours.get(key), one) != _portable(theirs.get(key), other)
        and ".mesh." not in f".{key}"
    )


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields every value that is not an object, as JSON, with its keys joined by dots."""
    if isinstance(value, dict) and value:
        for name, child in value.items():
            yield from _leaves(child, f"{key}.{name}" if key else name)
    else:
        yield key, json.dumps(value)


def _portable(value: str | None, study: Study) -> str | None:
    if value is None:
        return None
    return value.replace(str(study.folder), "{run}").replace(f"{{workdir}}/{study.folder.name}", "{run}")


def _object(path: Path, kind: type | None = None) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected the file that a finished stage writes there.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} does not parse as JSON ({error}).") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__}; expected an object.")
    return records.check(kind, value, str(path)) if kind else value


def _optional(path: Path, kind: type | None = None) -> dict[str, Any] | None:
    return _object(path, kind) if path.exists() else None


def _samples(path: Path) -> list[records.Samples]:
    samples = records.read(path, records.Samples)
    if not samples:
        raise UserError(f"{path} has no samples; expected one line per prompt.")
    return samples
