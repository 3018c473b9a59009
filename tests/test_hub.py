"""Names on the hub, by the hub's own client against a server that speaks its API: models and datasets."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.hub_server import COMMIT, Hub, serving

# Its library reads the environment when it is imported, so each look is a process.
LOOK = """
import json, sys
from rlhf_jax import assets
from rlhf_jax.data.sources import files
from rlhf_jax.errors import UserError

def found(look):
    try:
        return str(look())
    except UserError as error:
        return f"error: {error}"

splits = {"train": ("train.jsonl",)}
models, datasets = json.loads(sys.argv[1])
print(json.dumps([found(lambda: assets.resolve(name)) for name in models]
                 + [found(lambda: files.locate(name, splits)["train"][0]) for name in datasets]))
"""
WEIGHTS = bytes(range(256)) * 100_000  # the client keeps what came in pieces of 10 MB
MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WEIGHTS, "pytorch_model.bin": b"no"}
HUB = {
    "models/owner/model": MODEL,
    "models/owner/gated": MODEL,
    "datasets/ann/tea": {"train.jsonl": b'{"a": 1}\n', "test.jsonl": b"no"},
}


def look(folder: Path, address: str, models: tuple[str, ...], datasets: tuple[str, ...], **more: str) -> list[str]:
    """What a fresh process finds under names of models and of datasets."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own = {"HF_HOME": str(folder), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
    words = [sys.executable, "-c", LOOK, json.dumps([models, datasets])]
    ran = subprocess.run(words, env={**clean, **own, **more}, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_what_is_wanted_is_downloaded_once_and_a_broken_download_goes_on(tmp_path: Path) -> None:
    with serving(Hub(HUB, gated={"models/owner/gated"}, broken={"model.safetensors"})) as hub:
        names = ("owner/model", "owner/gated", "owner/none"), ("ann/tea", "ann/none")
        model, gated, absent, data, no_data = look(tmp_path, hub.address, *names)
        assert Path(model).name == COMMIT and Path(data).read_bytes() == HUB["datasets/ann/tea"]["train.jsonl"]
        assert (Path(model) / "model.safetensors").read_bytes() == WEIGHTS
        assert not (Path(model) / "pytorch_model.bin").exists() and not (Path(data).parent / "test.jsonl").exists()
        assert gated == "error: The model 'owner/gated' is gated: accept its terms on the hub and log in there first."
        assert absent.startswith("error: The model 'owner/none' is not on this machine and the hub did not give it (")
        assert no_data.startswith("error: The dataset ann/none is not on this machine and the hub did not give it (")
        starts = [first for name, first in hub.fetched if name == "model.safetensors"]
        assert len(starts) == 2 and 0 == starts[0] < starts[1], "what was there is not asked for again"
        hub.fetched.clear()
        assert look(tmp_path, hub.address, ("owner/model",), ("ann/tea",)) == [model, data]
        assert hub.fetched == []
    offline = look(tmp_path, hub.address, ("owner/model", "owner/other"), ("ann/tea",), HF_HUB_OFFLINE="1")
    assert [offline[0], offline[2]] == [model, data]
    assert offline[1].startswith("error: The model 'owner/other' is not on this machine and the hub did not give it (")
    assert look(tmp_path, hub.address, ("owner/model",), ("ann/tea",)) == [model, data], "nobody answers any more"
