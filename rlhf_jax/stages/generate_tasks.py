"""Stage `generate_tasks`: a new test set of instructions, by a language model behind an OpenAI-compatible endpoint.

The study's ID test set and Sequential Instructions were made like this, by a model that is no longer available. The
stage `prepare` reads the result in place of either.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from rlhf_jax.config import Count, Seed, content_of, may_change
from rlhf_jax.data import self_instruct
from rlhf_jax.data.records import to_lines
from rlhf_jax.data.self_instruct import Collection, Kind, Task
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_together
from rlhf_jax.llm_api.batch import Question, ask_all
from rlhf_jax.llm_api.budget import Spending, SpendingConfig
from rlhf_jax.llm_api.cache import AnswerCache
from rlhf_jax.llm_api.client import Endpoint, EndpointConfig


@dataclass(frozen=True)
class Config:
    """Settings of the stage.

    Attributes:
      stage: "generate_tasks".
      kind: the test set that it is like, by its name as a source of `prepare`.
      seed_tasks: JSONL of tasks to show examples of, as `self_instruct.seed_tasks` reads it. "" for this project's own.
      shown: examples per request. The study shows 3.
      tasks: number to make. The study has 1,030 and 533.
      requests: largest number to send. An answer has up to 17 tasks, and filters remove some.
      seed: draws the examples of each request.
      cache: SQLite file of answers. "" is `answers.sqlite` in the run's folder.
      endpoint: the model. The study samples at temperature 1 and top-p 1.
      spending: its prices, and the limit.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("tasks.jsonl", "generation.json")

    stage: str
    kind: Kind
    seed_tasks: str = content_of("data")
    shown: Count
    tasks: Count
    requests: Count = may_change()
    seed: Seed
    cache: str = may_change()
    endpoint: EndpointConfig
    spending: SpendingConfig


def check_here(config: Config) -> None:
    """Raises UserError for an endpoint that cannot be asked, and for more examples to show than there are."""
    Endpoint(config.endpoint)
    _seeds(config)


def _seeds(config: Config) -> list[Task]:
    seeds = self_instruct.seed_tasks(config.kind, config.seed_tasks)
    if config.shown > len(seeds):
        raise UserError(f"shown is {config.shown}, expected 1 to {len(seeds)}, as many as there are seed tasks.")
    return seeds


def run(config: Config, workdir: Path) -> None:
    """Writes generation.json (requests, rejected tasks and cost) and then tasks.jsonl, the test set.

    A line of it is `{"dataset", "instruction", "output", "generator"}`, as AlpacaEval has them.

    A request depends on the seed and its number alone, and answers are stored as they come. A run that was killed, or
    that stopped at a limit, continues when it is started again. Its result is the same.

    Raises:
      UserError: a setting that does not fit, `requests` answers with too few tasks in them, or as `ask_all`.
    """
    path = workdir / "tasks.jsonl"
    if path.exists():
        print(f"{path} is complete, nothing to do.")
        return
    seeds = _seeds(config)
    endpoint, spending = Endpoint(config.endpoint), Spending(config.spending)
    cache = AnswerCache(Path(config.cache) if config.cache else workdir / "answers.sqlite")

    def question(number: int) -> Question:
        shown = np.random.default_rng((config.seed, number)).choice(len(seeds), config.shown, replace=False)
        text = self_instruct.request(config.kind, [seeds[index] for index in shown])
        return Question([{"role": "user", "content": text}], repeat=number)

    collection = Collection(config.kind, seeds)
    asked = 0
    while len(collection.kept) < config.tasks:
        if asked == config.requests:
            raise UserError(
                f"{asked} requests gave {len(collection.kept)} tasks, expected {config.tasks}; left out were "
                f"{dict(collection.left_out)}. All answers are in {cache.path}: raise requests to go on."
            )
        numbers = range(asked, min(asked + config.endpoint.concurrency, config.requests))
        for answer in ask_all([question(number) for number in numbers], endpoint, cache, spending, "requests"):
            if len(collection.kept) < config.tasks:  # the tasks do not depend on the number of requests at once
                collection.add(answer.text, cut=answer.finish == "length")
                asked += 1
        print(f"{len(collection.kept):,} of {config.tasks:,} tasks after {asked:,} requests", flush=True)
    tasks = collection.kept[: config.tasks]
    facts = {
        "generator": endpoint.model,
        "requests": asked,
        "tasks": len(tasks),
        "left_out": dict(sorted(collection.left_out.items())),
        "spent": spending.summary(),
    }
    rows = [
        {"dataset": config.kind, "instruction": task.joined(), "output": task.output, "generator": endpoint.model}
        for task in tasks
    ]
    write_together(workdir, {"generation.json": json.dumps(facts, indent=2) + "\n", "tasks.jsonl": to_lines(rows)})
    print(f"{path}: {len(rows):,} tasks; {spending.in_words(spending.tokens)}.")
