"""A model released as AlpacaFarm released its own: tuned less base in PyTorch's shards, and the tuned one's sum."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.models.hf.pretrained import save_pretrained
from tests import tiny
from tests.models.hf.test_sources import write_torch

type Tensors = dict[str, np.ndarray]


def write(folder: Path, reward: bool = False, frequencies: bool = True) -> tuple[str, Path, Tensors]:
    """Writes a base model in float16, and a difference from it with a token more.

    Args:
      folder: gets the folders `base` and `difference`.
      reward: whether the tuned model is a reward model: all names below `backbone_model`, and a head.
      frequencies: whether the rotary frequencies are among the tensors, as old versions of transformers stored them.

    Returns:
      The base's folder, the difference's, and the tuned model's tensors under the names of a causal LM.
    """
    base = tiny.write_model(folder / "base", tied=False, vocabulary=tiny.VOCABULARY)
    model, params = tiny.network(tied=False, layers=2)
    save_pretrained(folder / "base", model, params, dtype="float16")
    tuned_model, tuned_params = tiny.network(tied=False, layers=2, vocabulary=tiny.VOCABULARY + 1, seed=1)
    save_pretrained(folder / "tuned", tuned_model, tuned_params)
    raw, tuned = (load_file(folder / name / "model.safetensors") for name in ("base", "tuned"))

    prefix = "backbone_model." if reward else ""
    difference, total = {}, 0.0
    for name, tensor in tuned.items():
        own = raw[name].astype(np.float64)
        if len(own) < len(tensor):
            own = np.concatenate([own, own.mean(axis=0, keepdims=True)])
        difference[f"{prefix}{name}"] = (tensor - own).astype(np.float32)
        total += tensor.sum(dtype=np.float64)
    if frequencies:
        a = model.architecture
        for layer in range(a.layers):
            difference[f"{prefix}model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.zeros(
                a.head_dim // 2, np.float32
            )
            total += sum(a.rotary.theta ** (-2 * i / a.head_dim) for i in range(a.head_dim // 2))
    if reward:
        head = {"reward_head.weight": np.linspace(-1, 1, 32)[None], "reward_head.bias": np.array([0.75])}
        difference |= {name: tensor.astype(np.float32) for name, tensor in head.items()}
        total += 0.75

    target = folder / "difference"
    target.mkdir()
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(difference)}
    for file in set(files.values()):
        write_torch(target / file, {name: difference[name] for name in difference if files[name] == file})
    (target / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    kind = {"model_type": "reward_model", "backbone_model_name_or_path": "/elsewhere/sft10k"}
    (target / "config.json").write_text(json.dumps(kind if reward else {"model_type": "llama"}))
    (target / "model_sum.txt").write_text(f"{total:.4f}")
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(target)
    return base, target, tuned
