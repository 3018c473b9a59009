"""AlpacaEval's outputs and annotations of one model, or the study's decodes.json, as samples and judgements.

    python -m rlhf_jax.main --config=configs/convert.py:results/alpaca-7b --workdir=runs/alpaca-7b

The argument is a folder that holds model_outputs.json, reference_outputs.json and annotations.json, and the model is
named after it. `--config.annotations=` leaves the last file out. The files do not say how the outputs were sampled:
set `--config.temperature`, `--config.finish` and `--config.seed`. `config.samples` of evaluate and judge takes the
samples.jsonl that this writes. Those of two splits are joined by `cat`.
"""

from ml_collections import ConfigDict


def get_config(folder: str = "results/model") -> ConfigDict:
    """The stage's config, by the folder of the files."""
    return ConfigDict(
        {
            "stage": "convert",
            "model": folder.rstrip("/").rpartition("/")[2],
            "split": "ood_test",
            "outputs": f"{folder}/model_outputs.json",
            "references": f"{folder}/reference_outputs.json",
            "annotations": f"{folder}/annotations.json",
            "temperature": 1.0,
            "finish": "eos",
            "seed": 0,
        }
    )
