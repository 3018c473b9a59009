"""The other side of `smollm2.py`: what transformers computes with this project's export of SmolLM2.

    python tests/oracle/smollm2_reference.py MODEL INPUTS OUT

Needs torch, transformers and numpy. `INPUTS` holds `tokens` [N, T], right-padded prompts with their `mask` [B, P] and
`new_tokens`, R. `OUT` will hold `continuations` [B, R], greedy and in float32, each prompt alone, and the likeliest
next token after every one in `tokens`: `float32` and `bfloat16` [N, T].
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

ROWS_AT_ONCE = 4


def continuation(model: PreTrainedModel, prompt: np.ndarray, new_tokens: int) -> np.ndarray:
    """`[R]`: nothing ends it but its length."""
    model.generation_config.eos_token_id = None
    ids = torch.from_numpy(prompt[None]).long()
    generated = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, pad_token_id=0
    )
    return generated[0, ids.shape[1] :].numpy()


def first_choices(model: PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    rows = torch.from_numpy(tokens).long().split(ROWS_AT_ONCE)
    return torch.cat([model(part, use_cache=False).logits.argmax(-1) for part in rows]).numpy()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="What transformers computes with an export of SmolLM2.")
    for name in ("model", "inputs", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    logging.disable_progress_bar()
    with np.load(args.inputs) as inputs:
        tokens, new_tokens = inputs["tokens"], int(inputs["new_tokens"])
        prompts = [row[real] for row, real in zip(inputs["prompt"], inputs["mask"], strict=True)]
    models = {name: AutoModelForCausalLM.from_pretrained(args.model, dtype=name) for name in ("float32", "bfloat16")}
    np.savez(
        args.out,
        continuations=np.stack([continuation(models["float32"], prompt, new_tokens) for prompt in prompts]),
        **{name: first_choices(model, tokens) for name, model in models.items()},
    )


if __name__ == "__main__":
    main()
