"""What the study's stages on TL;DR share: the model, where the data are, and how prompts are cut (App. E).

    python -m rlhf_jax.main --config=configs/prepare.py:tldr --workdir=data/tldr
    python -m rlhf_jax.main --config=configs/prepare.py:tldr_preferences --workdir=data/tldr_preferences

The mesh is ours, for slices of eight chips; --config.mesh.tensor=1 is for one. So are scanned blocks, which compile
in a fraction of the time, and what is saved inside them, without which the reward model does not fit
(docs/performance.md).
"""

LLAMA_7B = "huggyllama/llama-7b"
EXAMPLES = "data/tldr/examples.jsonl"
PREFERENCES = "data/tldr_preferences/preferences.jsonl"
MESH = {"data": -1, "fsdp": 1, "tensor": 8}
BLOCKS = {"scan": True, "remat": "projections", "quantize_trunk": "none"}
TRAINING = {
    "dtype": "float32",
    "mesh": MESH,
    "blocks": BLOCKS,
    "prompt_buckets": (256, 512, 1024),
    "truncation": "left",
}
