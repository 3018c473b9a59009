"""Stage `evaluate`: diversity, length, overlap and copying of each model's samples, split by split."""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np

from rlhf_jax.config import NOT_EMPTY, Count, CountOrZero, Seed, content_of
from rlhf_jax.data.formats import source_text
from rlhf_jax.data.records import Samples, read, read_by_split
from rlhf_jax.encoders.cached import EncodeOnce
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_text
from rlhf_jax.metrics.best_of_n import simulated_best
from rlhf_jax.metrics.diversity import (
    Encoder,
    Metric,
    across_input,
    across_input_of_pairs,
    expectation_adjusted_distinct,
    mean_distinct,
    ngram_cosine_diversity,
    pairwise_similarity_diversity,
    per_input,
)
from rlhf_jax.metrics.statistics import mean_and_error
from rlhf_jax.metrics.text import copied_fraction, length_in_words, repetition, rouge_l

NO_MODEL = "no model is set for it"

type Result = dict[str, Any]
type Answers = dict[str, list[str]]  # to each prompt, by its id


@dataclass(frozen=True)
class Nli:
    """Diversity by natural language inference.

    Attributes:
      model: a name for `load_nli_classifier` (the study: roberta-large-mnli), or "".
      samples: pairs of sentences, drawn from each pair of outputs.
      pairs: largest number of pairs of outputs of one set, drawn. 0 for all.
    """

    model: str = content_of("model")
    samples: Count
    pairs: CountOrZero


@dataclass(frozen=True)
class Config:
    """Settings of the stage.

    Attributes:
      stage: "evaluate".
      samples: model name to its samples.jsonl.
      encoder: sentence encoder, a name for `load_encoder`. "" skips Sentence-BERT diversity.
      nli: settings of diversity by natural language inference.
      mode: "default" or "paper", for expectation-adjusted distinct n-grams and inference.
      pools: best-of-N model name to a samples.jsonl with rewards and at least 4N outputs per prompt, sampled in
        the same way. Per-input diversity is that of N simulated answers (`best_of_n.simulated_best`), and is not
        computed without a pool.
      seed: of those draws, and of the intervals.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("evaluation.json",)

    stage: str
    samples: Annotated[dict[str, str], NOT_EMPTY] = content_of("data")
    encoder: str = content_of("encoder")
    nli: Nli
    mode: Literal["default", "paper"]
    pools: dict[str, str] = content_of("data")
    seed: Seed


def check(config: Config) -> None:
    """Raises UserError for a pool of a model that there is not."""
    for model in config.pools:
        if model not in config.samples:
            raise UserError(f"config.pools has {model!r}, expected some of {', '.join(config.samples)}.")


def check_here(config: Config) -> None:
    """Raises UserError if the encoder is not to be found."""
    if config.encoder:
        from rlhf_jax.encoders.sentence import find_encoder

        find_encoder(config.encoder)


def run(config: Config, workdir: Path) -> None:
    """Writes evaluation.json: `{"encoder", "nli", "mode", "models": {model: {split: results}}}`.

    The results of a split are `prompts`, `outputs` (per prompt), `temperature`, and the metrics `length` (words),
    `rouge_l`, `copied`, `repetition`, `finished` (fractions), `reward`, and under `per_input` and `across_input` the
    diversities `ead`, `distinct_n`, `ngram_cosine`, `sentence_bert` and `nli`. A metric is `{"mean",
    "standard_error", "n"}` with n = prompts, a diversity with its 95 % `"interval"` too, or
    `{"not_computed": reason}`. Metrics other than diversity are averaged over a prompt's outputs first (the
    selected one of best-of-N), so the error is between prompts.

    Raises:
      UserError: a file is missing, broken or empty, a model's records of one split differ in temperature or number of
        outputs, the encoder is missing, or the mode does not exist.
    """
    path = workdir / "evaluation.json"
    if path.exists():
        print(f"{path} is complete, nothing to do.")
        return
    samples = {model: read_by_split(Path(file)) for model, file in config.samples.items()}
    answers = {
        model: _simulated_answers(samples[model], Path(file), config.seed) for model, file in config.pools.items()
    }
    set_metric = functools.partial(_set_metric, seed=config.seed)
    metrics = {
        "ead": set_metric(functools.partial(expectation_adjusted_distinct, mode=config.mode)),
        "distinct_n": set_metric(functools.partial(mean_distinct, mode=config.mode)),
        "ngram_cosine": set_metric(functools.partial(ngram_cosine_diversity, mode=config.mode)),
        "sentence_bert": None,
        "nli": _by_inference(config) if config.nli.model else None,
    }
    if config.encoder:
        encoder = _encode_all(config.encoder, samples, answers)
        metrics["sentence_bert"] = set_metric(functools.partial(pairwise_similarity_diversity, encoder=encoder))
    models = {
        model: {split: _evaluate(records, metrics, answers.get(model)) for split, records in splits.items()}
        for model, splits in samples.items()
    }
    evaluation = {"encoder": config.encoder, "nli": config.nli.model, "mode": config.mode, "models": models}
    write_text(path, json.dumps(evaluation, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    print(f"{path}: {len(models)} model(s).")


class Diversity(NamedTuple):
    """A diversity of the outputs to each input, and of one output per input, as functions of texts."""

    per_input: Callable[[Sequence[Samples] | Sequence[Sequence[str]]], Result]
    across_input: Callable[[Sequence[Samples]], Result]


def _set_metric(metric: Metric, seed: int) -> Diversity:
    of_texts = {"metric": metric, "seed": seed}
    return Diversity(functools.partial(per_input, **of_texts), functools.partial(across_input, **of_texts))


def _by_inference(config: Config) -> Diversity:
    from rlhf_jax.encoders.classifier import load_nli_classifier
    from rlhf_jax.metrics.nli import nli_diversity, pair_values

    settings = {"mode": config.mode, "samples": config.nli.samples, "largest": config.nli.pairs, "seed": config.seed}
    settings["classifier"] = EncodeOnce(load_nli_classifier(config.nli.model))
    return Diversity(
        functools.partial(per_input, metric=functools.partial(nli_diversity, **settings), seed=config.seed),
        functools.partial(
            across_input_of_pairs, pair_values=functools.partial(pair_values, **settings), seed=config.seed
        ),
    )


def _simulated_answers(splits: dict[str, list[Samples]], path: Path, seed: int) -> Answers:
    """Simulates N answers to each prompt of a best-of-N model, from a larger pool of candidates."""
    pool = {record.id: record for record in read(path, Samples)}
    answers = {}
    for record in (record for records in splits.values() for record in records):
        found = pool.get(record.id)
        if found is None or found.rewards is None or found.temperature != record.temperature:
            raise UserError(f'{path} lacks "{record.id}" with rewards at temperature {record.temperature}.')
        rng = np.random.default_rng([seed, *hashlib.sha256(record.id.encode()).digest()])
        chosen = simulated_best(found.rewards, record.n, record.n, rng)
        answers[record.id] = [found.outputs[index] for index in chosen]
    return answers


def _encode_all(name: str, samples: dict[str, dict[str, list[Samples]]], answers: dict[str, Answers]) -> Encoder:
    """Returns a cached encoder that has encoded all outputs at once, in few batches."""
    from rlhf_jax.encoders.sentence import load_encoder

    encoder = EncodeOnce(load_encoder(name))
    records = [record for splits in samples.values() for records in splits.values() for record in records]
    texts = [output for record in records for output in record.answers(record.outputs)]
    encoder(texts + [text for of_model in answers.values() for outputs in of_model.values() for text in outputs])
    return encoder


def _evaluate(records: Sequence[Samples], metrics: dict[str, Diversity | None], answers: Answers | None) -> Result:
    return {
        "prompts": len(records),
        "outputs": records[0].n,
        "temperature": records[0].temperature,
        "length": _mean(records, lambda record, output: length_in_words(output)),
        "rouge_l": _mean(records, lambda record, output: rouge_l(output, record.reference)),
        "copied": _copied(records),
        "repetition": _mean(records, lambda record, output: repetition(output)),
        "finished": mean_and_error([fmean(f == "eos" for f in r.answers(r.finish)) for r in records]),
        "reward": _reward(records),
        "per_input": {name: _per_input(records, metric, answers) for name, metric in metrics.items()},
        "across_input": {name: _across_input(records, metric) for name, metric in metrics.items()},
    }


def _mean(records: Sequence[Samples], measure: Callable[[Samples, str], float]) -> Result:
    return mean_and_error([fmean(measure(r, output) for output in r.answers(r.outputs)) for r in records])


def _copied(records: Sequence[Samples]) -> Result:
    try:
        texts = {record.id: source_text(record.prompt) for record in records}
    except UserError as error:
        return {"not_computed": str(error)}
    return _mean(records, lambda record, output: copied_fraction(output, texts[record.id]))


def _reward(records: Sequence[Samples]) -> Result:
    rewards = [record.answers(record.rewards) for record in records if record.rewards is not None]
    if len(rewards) < len(records):
        return {"not_computed": f"{len(records) - len(rewards)} of {len(records)} prompts carry no rewards"}
    return mean_and_error([fmean(values) for values in rewards])


def _per_input(records: Sequence[Samples], diversity: Diversity | None, answers: Answers | None) -> Result:
    if diversity is None:
        return {"not_computed": NO_MODEL}
    if records[0].selected is not None:
        if answers is None:
            return {"not_computed": f"needs simulated Bo{records[0].n} sets from a pool of at least 4N"}
        return diversity.per_input([answers[record.id] for record in records])
    if records[0].n < 2:
        return {"not_computed": "needs two outputs per prompt or more"}
    return diversity.per_input(records)


def _across_input(records: Sequence[Samples], diversity: Diversity | None) -> Result:
    if diversity is None:
        return {"not_computed": NO_MODEL}
    if len(records) < 2:
        return {"not_computed": "needs two prompts or more"}
    return diversity.across_input(records)
