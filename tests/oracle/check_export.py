"""The oracle's way back: transformers loads what this project exported and computes the same as before.

    python tests/oracle/check_export.py EXPORTS REFERENCES

Needs torch, transformers, numpy and safetensors. `EXPORTS/<case>/causal_lm` is what `rlhf_jax.save_pretrained` wrote
after loading `REFERENCES/<case>`, which `make_references.py` wrote, and `EXPORTS/<case>/reward_model` what
`save_reward_model` made of it and the reference's classification head. Prints one JSON object:

    {case: {export: {"tensors": names that are missing, unexpected or of another shape, "error": of logits or scores}}}

The error is the largest difference over the standard deviation: rounding and no more, for the weights are the same.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import BATCHES, CASES
from make_references import forward, real_outputs
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging


def check_causal_lm(name: str, exported: Path, reference: Path) -> dict[str, list[str] | float]:
    """The logits of every batch."""
    model, info = AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager", output_loading_info=True)
    error = 0.0
    with np.load(reference / "expected.npz") as expected:
        for batch in BATCHES:
            logits, _ = real_outputs(
                model.eval(), CASES[name], (expected[f"{batch}/tokens"], expected[f"{batch}/mask"])
            )
            wanted = expected[f"{batch}/logits"]
            error = max(error, float(np.abs(logits - wanted).max() / wanted.std()))
    return {"tensors": misfits(info), "error": error}


@torch.no_grad()
def check_reward_model(exported: Path, reference: Path) -> dict[str, list[str] | float]:
    """The raw scores of a right-padded batch, which transformers reads at the last id that is not the pad id."""
    model, info = AutoModelForSequenceClassification.from_pretrained(
        exported, attn_implementation="eager", output_loading_info=True
    )
    with np.load(reference / "expected.npz") as expected:
        mask = expected["right/mask"]
        tokens = np.where(mask, expected["right/tokens"], model.config.pad_token_id)
        scores = forward(model.eval(), tokens, mask).logits[:, 0].numpy()
        wanted = expected["scores/right"]
        spread = (expected["right/hidden"] @ expected["scores/kernel"]).std()
    return {"tensors": misfits(info), "error": float(np.abs(scores - wanted).max() / spread)}


def misfits(info: dict[str, Any]) -> list[str]:
    """Names of tensors that transformers did not find, did not expect or found in another shape."""
    return sorted(str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind])


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether transformers computes the same from our exports.")
    parser.add_argument("exports", type=Path)
    parser.add_argument("references", type=Path)
    args = parser.parse_args()
    logging.disable_progress_bar()
    names = sorted(folder.name for folder in args.exports.iterdir())
    found = {}
    for name in names:
        exported, reference = args.exports / name, args.references / name
        found[name] = {
            "causal_lm": check_causal_lm(name, exported / "causal_lm", reference),
            "reward_model": check_reward_model(exported / "reward_model", reference),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
