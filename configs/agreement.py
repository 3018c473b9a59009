"""Does a language model judge as people do? Agreement with the labels of a preference file.

    export OPENAI_API_KEY=... OPENAI_MODEL=...      # and OPENAI_BASE_URL for an endpoint that is not OpenAI's
    python -m rlhf_jax.main --config=configs/agreement.py:data/preferences.jsonl --workdir=runs/agreement

The argument is the file. Its prompts are taken for TL;DR's. `--config.llm.prompt` chooses another judge's prompt. The
study compared 500 pairs, shuffled with seed 13.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(data: str = "data/preferences.jsonl") -> ConfigDict:
    """The stage's config, by the preference file."""
    llm = common.llm("tldr", 13)
    return ConfigDict(
        {"stage": "agreement", "data": data, "splits": ("validation",), "pairs": 500, "seed": 13, "llm": llm}
    )
