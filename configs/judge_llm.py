"""Win rates of a study's three policies by a language model, behind any OpenAI-compatible endpoint.

    export OPENAI_API_KEY=... OPENAI_MODEL=...      # and OPENAI_BASE_URL for an endpoint that is not OpenAI's
    python -m rlhf_jax.main --config=configs/judge_llm.py:runs/quickstart --workdir=runs/judge_llm \\
        --config.llm.spending.prompt_price=... --config.llm.spending.answer_price=... --config.llm.spending.limit=5.0

The argument is the folder of a study whose samples are there. Prices are US dollars per million tokens. Without prices
there is no limit. `--config.llm.prompt` chooses another prompt: tldr, cnn_dailymail, instruction, or a file.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, "documentation", seed=0)


def stage(folder: str, prompt: str, seed) -> ConfigDict:
    """The stage of the study in `folder`: one output per prompt, since each comparison has a price."""
    return ConfigDict(
        {
            "stage": "judge",
            "samples": common.samples(folder),
            "baseline": "sft",
            "llm": common.llm(prompt, seed),
            "against_reference": True,
            "pairs": 1,
        }
    )
