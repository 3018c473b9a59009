"""A new test set of instructions like one of the study's, by any OpenAI-compatible endpoint.

    export OPENAI_API_KEY=... OPENAI_MODEL=...      # and OPENAI_BASE_URL for an endpoint that is not OpenAI's
    python -m rlhf_jax.main --config=configs/generate_tasks.py:sequential_instructions --workdir=runs/sequential \\
        --config.spending.prompt_price=... --config.spending.answer_price=... --config.spending.limit=5.0
    python -m rlhf_jax.main --config=configs/prepare.py:alpaca --workdir=runs/alpaca/prepare \\
        --config.sources.sequential.path=runs/sequential

The argument is `alpaca_farm_id_test` or `sequential_instructions`. Sampling, the number of examples and that of tasks
are the study's. It asked text-davinci-003 for five lists at a time. Prices are US dollars for a million tokens. Without
them only `requests` is a limit. No run of this with a real model has been made yet.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common

TASKS = {"alpaca_farm_id_test": 1030, "sequential_instructions": 533}


def get_config(kind: str = "sequential_instructions") -> ConfigDict:
    """The stage's config, by the kind of test set."""
    common.check_argument("generate_tasks.py", kind, *TASKS)
    config = ConfigDict(
        {
            "stage": "generate_tasks",
            "kind": kind,
            "seed_tasks": "",
            "shown": 3,
            "tasks": TASKS[kind],
            "requests": TASKS[kind] // 2,
            "seed": 0,
            "cache": "",
            "endpoint": common.endpoint(temperature=1.0, top_p=1.0, max_tokens=3072),
            "spending": {"prompt_price": 0.0, "answer_price": 0.0, "limit": 10.0},
        }
    )
    config.endpoint.concurrency = 5
    return config
