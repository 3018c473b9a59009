"""The oracle's torch side: tiny random models of every case, and what transformers computes with them.

    python tests/oracle/make_references.py OUT [--cases llama opt] [--widen 4]

Needs torch, transformers, numpy and safetensors, and nothing of this project but the list of cases. For each case it
writes the model as a Hugging Face folder `OUT/<case>` (float32), and beside the weights `expected.npz`:

    <batch>/tokens, mask      [B, T]  `right`, `left` and `holes` hold the same rows, each laid out otherwise among
                                      random filler ids. `long` is one row that is longer than a chunk of attention
    <batch>/logits            [M, V]  float32, of the M real tokens in the mask's order
    <batch>/hidden            [M, D]  `hidden_states[-1]`: what the LM head reads, so after the final norm, and for
                                      OPT 350M, which has none, after the projection to the embedding's width
    <batch>/rounding          []      largest difference of the logits to those of the same network in float64
    gradient/<tensor>                 of the mean next-token cross-entropy over the real tokens of `right`, in nats
    scores/kernel, scores/right       a classification head [D], and the raw scores [B] of `right` that
                                      AutoModelForSequenceClassification gives with it
    greedy/tokens, mask       [2, P]  two prompts of different length, right-padded
    greedy/continuation       [2, R]  what each of them, alone, is continued with at temperature 0

Rotary families are told `position_ids = (cumsum(mask) - 1).clip(0)`. OPT finds them by itself. A sliding window of
transformers counts columns, filler included, where it has to count real tokens: with such a window each row is
computed alone, without its filler.
"""

import argparse
import contextlib
import copy
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from cases import CASES, FIRST_ID, GREEDY_PROMPTS, GREEDY_TOKENS, LONG_ROW, PAD_ID, ROW_LENGTHS, ROW_WIDTH, Case
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import logging

Batch = tuple[np.ndarray, np.ndarray]  # tokens, mask


def make_model(case: Case, rng: np.random.Generator) -> PreTrainedModel:
    """A causal LM whose every tensor shows in the result: logits differ by whole nats, nothing is 0 or 1."""
    config = AutoConfig.for_model(case.family, **case.fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        if name.endswith(".bias"):
            values = rng.normal(0.0, 0.2, shape)
        elif "norm" in name:
            values = rng.uniform(0.5, 1.5, shape)
        elif "embed_positions" in name:
            values = rng.normal(0.0, 1.5, shape)
        elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
            values = rng.normal(0.0, 3 * shape[1] ** -0.5, shape)
            values[case.ids :] *= 0.01  # never trained: small enough not to be the greedy choice
        else:
            values = rng.normal(0.0, 1.75 * shape[1] ** -0.5, shape)
        parameter.data.copy_(torch.from_numpy(values))
    return model


def make_batches(case: Case, rng: np.random.Generator) -> dict[str, Batch]:
    shape = (len(ROW_LENGTHS), ROW_WIDTH)
    lengths, columns = np.array(ROW_LENGTHS)[:, None], np.arange(ROW_WIDTH)
    rows = rng.integers(FIRST_ID, case.ids, shape)
    masks = {
        "right": columns < lengths,
        "left": columns >= ROW_WIDTH - lengths,
        "holes": rng.permuted(columns < lengths, axis=1),
    }
    batches = {}
    for name, mask in masks.items():
        tokens = np.full(shape, PAD_ID) if name == "right" else rng.integers(FIRST_ID, case.ids, shape)
        tokens[mask] = rows[masks["right"]]
        batches[name] = (tokens, mask)
    batches["long"] = (rng.integers(FIRST_ID, case.ids, (1, LONG_ROW)), np.ones((1, LONG_ROW), bool))
    return batches


def forward(model: PreTrainedModel, tokens: np.ndarray, mask: np.ndarray) -> CausalLMOutputWithPast:
    mask = torch.from_numpy(mask).long()
    positions = {} if model.config.model_type == "opt" else {"position_ids": (mask.cumsum(1) - 1).clip(0)}
    return model(
        torch.from_numpy(tokens).long(), attention_mask=mask, use_cache=False, output_hidden_states=True, **positions
    )


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """What a model in float64 casts to float32 by name (norms, softmax, rotary angles) stays in float64."""
    with (
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield


@torch.no_grad()
def real_outputs(model: PreTrainedModel, case: Case, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[M, V]` and last hidden states `[M, D]` of the real tokens, row by row."""
    parts = [batch]
    if case.window:
        parts = [(row[real][None], real[real][None]) for row, real in zip(*batch, strict=True)]
    outputs = [(forward(model, *part), part[1]) for part in parts]
    logits = np.concatenate([output.logits.numpy()[mask] for output, mask in outputs])
    hidden = np.concatenate([output.hidden_states[-1].numpy()[mask] for output, mask in outputs])
    return logits, hidden


def gradients(model: PreTrainedModel, tokens: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    logits = forward(model, tokens, mask).logits[:, :-1]
    predicted = torch.from_numpy(mask[:, 1:])
    loss = functional.cross_entropy(logits[predicted], torch.from_numpy(tokens[:, 1:]).long()[predicted])
    model.zero_grad()
    loss.backward()
    return {f"gradient/{name}": parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}


@torch.no_grad()
def scores(model: PreTrainedModel, batch: Batch, rng: np.random.Generator) -> dict[str, np.ndarray]:
    config = copy.deepcopy(model.config)
    config.num_labels, config.pad_token_id = 1, PAD_ID
    classifier = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    classifier.model.load_state_dict(model.model.state_dict())
    classifier.score.weight.copy_(torch.from_numpy(rng.normal(0.0, 0.5, classifier.score.weight.shape)))
    return {
        "scores/kernel": classifier.score.weight[0].numpy(),
        "scores/right": forward(classifier, *batch).logits[:, 0].numpy(),
    }


@torch.no_grad()
def greedy(model: PreTrainedModel, case: Case, rng: np.random.Generator) -> dict[str, np.ndarray]:
    mask = np.arange(max(GREEDY_PROMPTS)) < np.array(GREEDY_PROMPTS)[:, None]
    tokens = np.where(mask, rng.integers(FIRST_ID, case.ids, mask.shape), PAD_ID)
    model.generation_config.eos_token_id = None
    continuations = []
    for row, real in zip(tokens, mask, strict=True):
        prompt = torch.from_numpy(row[real][None])
        generated = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=GREEDY_TOKENS,
            pad_token_id=PAD_ID,
        )
        continuations.append(generated[0, prompt.shape[1] :].numpy())
    return {
        "greedy/tokens": tokens.astype(np.int32),
        "greedy/mask": mask,
        "greedy/continuation": np.stack(continuations).astype(np.int32),
    }


def write_reference(folder: Path, case: Case) -> None:
    """Writes one case: model and `expected.npz`."""
    rng = np.random.default_rng(0)
    model = make_model(case, rng)
    model.save_pretrained(folder)
    batches = make_batches(case, rng)
    exact = copy.deepcopy(model).double()
    expected: dict[str, np.ndarray] = {}
    for name, batch in batches.items():
        logits, hidden = real_outputs(model, case, batch)
        with in_float64():
            exact_logits, _ = real_outputs(exact, case, batch)
        expected[f"{name}/tokens"], expected[f"{name}/mask"] = batch[0].astype(np.int32), batch[1]
        expected[f"{name}/logits"], expected[f"{name}/hidden"] = logits, hidden
        expected[f"{name}/rounding"] = np.abs(logits - exact_logits).max()
    expected |= gradients(model, *batches["right"])
    expected |= scores(model, batches["right"], rng)
    expected |= greedy(model, case, rng)
    temporary = folder / "expected.partial.npz"
    np.savez_compressed(temporary, **expected)
    os.replace(temporary, folder / "expected.npz")


def main() -> None:
    parser = argparse.ArgumentParser(description="Tiny models of every family, and what transformers computes.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--widen", type=int, default=1, help="multiplies widths and vocabulary")
    args = parser.parse_args()
    logging.disable_progress_bar()
    for name in args.cases:
        write_reference(args.out / name, CASES[name].widened(args.widen))
        print(name, flush=True)


if __name__ == "__main__":
    main()
