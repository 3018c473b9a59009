"""What the study's stages on TL;DR share: the model, where the data are, and how prompts are cut (App. E)."""

LLAMA_7B = "huggyllama/llama-7b"
DATA = "data/tldr"
TRAINING = {"dtype": "float32", "prompt_buckets": (256, 512, 1024), "truncation": "left"}
