"""A random LLaMA of some 300,000 parameters, for trying a change: `make tiny` runs the whole study on it.

    python -m rlhf_jax.main --config=configs/initialize.py:runs/tiny --workdir=runs/model

The argument is the folder of a study whose prepare stage is finished: the tokenizer, a BPE of 512 tokens, is learned
from its corpus.
"""

from ml_collections import ConfigDict


def get_config(study: str = "runs/tiny") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, 0)


def stage(folder: str, seed) -> ConfigDict:
    """The stage of the study in `folder`."""
    return ConfigDict(
        {
            "stage": "initialize",
            "data": f"{folder}/prepare/examples.jsonl",
            "vocabulary": 512,
            "width": 96,
            "layers": 3,
            "heads": 4,
            "kv_heads": 2,
            "mlp_features": 192,
            "max_length": 512,
            "seed": seed,
        }
    )
