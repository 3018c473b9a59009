"""Packaging. Tool settings are in pyproject.toml, the exact versions that CI installs in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(r'__version__ = "(.+)"', Path("rlhf_jax/__init__.py").read_text(encoding="utf-8")).group(1)

# From what is tested up to the next release that may break it; docs/decisions.md says why each is here.
INSTALL = [
    "absl-py>=2.5,<3",
    "array-record>=0.8.3,<0.9",
    "datasets>=5.2,<6",
    "flax>=0.12.12,<0.13",
    "fsspec>=2026.4,<2027",
    "gguf>=0.19,<0.20",
    "grain>=0.2.18,<0.3",
    "huggingface_hub>=2.4,<3",
    "jax>=0.12,<0.13",
    "jaxtyping>=0.3.11,<0.4",
    "jinja2>=3.1,<4",
    "matplotlib>=3.11,<4",
    "ml-collections>=1.1,<2",
    "ml-dtypes>=0.6,<0.7",
    "numpy>=2.5,<3",
    "openai>=3.54,<4",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "pydantic>=2.14,<3",
    "regex>=2026.11,<2027",
    "rouge-score>=0.1.2,<0.2",
    "safetensors>=0.8,<0.9",
    "scikit-learn>=1.9,<2",
    "scipy>=1.18,<2",
    "sentencepiece>=0.2.3,<0.3",
    "tensorboardX>=2.6.5,<3",
    "tensorflow-datasets>=4.9.10,<5",
    "tokenizers>=0.23.3,<0.24",
    "tqdm>=4.70,<5",
    "transformers>=5.23,<6",
]

NOTEBOOKS = ["ipykernel>=7.4,<8", "nbclient>=0.11,<0.12"]

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    "sbert": ["sentence-transformers>=6.2,<7"],  # brings torch, which nothing else here does
    "onnx": ["onnxruntime>=1.32,<2"],
    "gcs": ["gcsfs"],  # of fsspec's version
    "wandb": ["wandb>=0.31,<1"],
    "colab": NOTEBOOKS,
    "test": [
        *NOTEBOOKS,
        "beartype>=0.23.1,<0.24",
        "hypothesis>=6.170,<7",
        "pytest>=9.2,<10",
        "pytest-xdist>=3.8,<4",
        "ruff>=0.17.6,<0.18",
        "setuptools>=77,<85",  # builds the wheel that is tested
        "wandb>=0.31,<1",  # its writer is tested, not skipped
    ],
}

setup(
    name="rlhf_jax",
    version=VERSION,
    description="The whole RLHF study in JAX: SFT, reward model, PPO and best-of-N, and what they do to "
    "generalisation and diversity",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords="rlhf jax flax tpu ppo best-of-n reward-model diversity generalisation language-models",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    # `rlhf_jax/configs` is a link to `configs`, so that experiments are imported by one name in a clone and installed.
    packages=find_packages(include=["rlhf_jax", "rlhf_jax.*"]),
    package_data={
        "rlhf_jax": ["py.typed"],
        "rlhf_jax.data": ["seed_tasks/*"],
        "rlhf_jax.judges": ["prompts/*.txt"],
        "rlhf_jax.report": ["*.j2"],
    },
    entry_points={"console_scripts": ["rlhf-jax = rlhf_jax.main:command"]},
    python_requires=">=3.12",
    install_requires=INSTALL,
    extras_require=EXTRAS,
)
