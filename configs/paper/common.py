"""What the study's stages on TL;DR share: the model, where the data are, and how prompts are cut (App. E).

    python -m rlhf_jax.main --config=configs/prepare.py:tldr --workdir=data/tldr
    python -m rlhf_jax.main --config=configs/prepare.py:tldr_preferences --workdir=data/tldr_preferences

The mesh is ours, for slices of eight chips; --config.mesh.tensor=1 is for one.
"""

LLAMA_7B = "huggyllama/llama-7b"
EXAMPLES = "data/tldr/examples.jsonl"
PREFERENCES = "data/tldr_preferences/preferences.jsonl"
MESH = {"data": -1, "fsdp": 1, "tensor": 8}
TRAINING = {"dtype": "float32", "mesh": MESH, "prompt_buckets": (256, 512, 1024), "truncation": "left"}
