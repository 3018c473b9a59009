"""What tokenising once costs, and what a training step waits for its data: 120,000 posts of TL;DR's layout.

    PYTHONPATH=. .venv/bin/python benchmarks/data.py

The posts are made of the words of this project's docs, as long as TL;DR's are: 60 to 420 words, and 12 to 40 of a
summary. What `prepare` does with them is timed phase by phase, from JSONL files to ArrayRecord. Then batches are read
ahead as fast as they come, and `sft` takes some steps of SmolLM2 from them. The wait is the share of a step's wall
clock that its `timing.jsonl` tells, without the steps that compile.
"""

import argparse
import itertools
import json
import re
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlhf_jax.config import parse, to_dict
from rlhf_jax.configs import prepare as prepare_configs
from rlhf_jax.configs import sft as sft_config
from rlhf_jax.data import records, tokenise
from rlhf_jax.data.batches import Batches, Buckets, Encoding
from rlhf_jax.data.loading import Loading, load_splits, read_ahead
from rlhf_jax.data.records import Example
from rlhf_jax.data.sources.parts import gather
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.stages import prepare
from rlhf_jax.stages.runner import run_stage

DOCS = Path(__file__).parents[1] / "docs"
BUCKETS = Buckets(prompt=(256, 512), response=(64,))
SPLITS = {"train": "train", "valid": "validation", "test": "id_test"}


def make_posts(folder: Path, count: int) -> None:
    """TL;DR's three files, the two held-out ones of a hundredth each."""
    rng = np.random.default_rng(0)
    pages = "".join(path.read_text() for path in sorted(DOCS.glob("*.md")))
    words = np.array(re.findall(r"[A-Za-z]{2,}", pages))

    def post() -> dict[str, str]:
        text, summary = (" ".join(rng.choice(words, rng.integers(*span))) for span in ((60, 421), (12, 41)))
        return {"subreddit": "relationships", "title": text[:40], "post": text, "summary": f" {summary}."}

    for file in SPLITS:
        rows = count if file == "train" else count // 100
        with (folder / f"{file}.jsonl").open("w") as output:
            output.writelines(json.dumps(post()) + "\n" for _ in range(rows))


def timed[T](name: str, function: Callable[..., T], *arguments: object) -> tuple[T, float]:
    """The function's result and its seconds, printed."""
    start = time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - start
    print(f"  {name:<28} {seconds:6.1f} s", flush=True)
    return result, seconds


def prepare_timed(config: prepare.Config, folder: Path) -> float:
    """What `stages.prepare.run` does, phase by phase. Returns its seconds."""
    gathered, read = timed("read the sources", gather, config.sources, config.splits, Example)
    everything = [record for split in gathered.splits.values() for record in split]
    fingerprint, hashed = timed("fingerprint the records", records.fingerprint, everything)
    inputs = (folder, gathered.splits, fingerprint, config.tokens)
    _, tokenised = timed("tokenise, write ArrayRecord", tokenise.write, *inputs)
    _, written = timed("write the records", records.write, folder / "examples.jsonl", everything)
    records.write_text(folder / "corpus.json", json.dumps({"fingerprint": fingerprint}))
    return read + hashed + tokenised + written


def throughput(folder: Path, tokens: tokenise.Config, workers: int, batches: int = 200) -> None:
    """Prints how fast batches of 128 come when nothing else runs."""
    encoding = Encoding(load_tokenizer(tokens.model), tokens.max_prompt, max(BUCKETS.response))
    start = time.perf_counter()
    train, _ = load_splits(str(folder), Example, encoding, [], Loading(workers, drop_shards=False))
    ahead = read_ahead(Batches(train, 128, 0, BUCKETS, 0).at, 0, 128, workers)
    next(ahead)
    opened = time.perf_counter()
    for _ in itertools.islice(ahead, batches):
        pass
    seconds = time.perf_counter() - opened
    ahead.close()
    rate = 128 * batches / seconds
    print(f"  {workers} workers: first batch after {opened - start:.1f} s, then {rate:,.0f} examples/s", flush=True)


def step_wait(folder: Path, workdir: Path, tokens: tokenise.Config, steps: int) -> None:
    """Prints the wait of SFT steps of 16 examples."""
    config = sft_config.stage("", tokens.model, seed=0)
    config.update(
        {
            "data": str(folder),
            "evaluate_splits": (),
            "evaluate_every": steps,
            "prompt_buckets": BUCKETS.prompt,
            "response_buckets": BUCKETS.response,
            "steps": steps,
            "checkpoint_every": steps,
        }
    )
    run_stage(to_dict(config), workdir)
    lines = records.read_objects(workdir / "timing.jsonl")
    warm = [line for before, line in itertools.pairwise(lines) if line["programs"] == before["programs"]]
    share = sum(line["data_seconds"] for line in warm) / sum(line["seconds"] for line in warm)
    seconds = np.median([line["seconds"] for line in warm])
    largest = max(line["data_wait"] for line in warm)
    print(f"  {len(warm)} steps of {seconds:.2f} s (median): {share:.3%} of them waiting, at most {largest:.3%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=120_000, help="of the training split")
    parser.add_argument("--steps", type=int, default=8, help="of SFT")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        posts, folder, run = (Path(place, name) for name in ("posts", "prepared", "sft"))
        posts.mkdir()
        make_posts(posts, arguments.posts)
        chosen = prepare_configs.get_config("tldr")
        del chosen.sources["cnn_dailymail"], chosen.splits["ood_test"]
        chosen.sources.tldr.path = str(posts)
        config = parse(prepare.Config, to_dict(chosen))
        print(f"prepare, {arguments.posts:,} posts, {config.tokens.num_workers} processes:", flush=True)
        print(f"  {'in all':<28} {prepare_timed(config, folder):6.1f} s")
        size = sum(path.stat().st_size for path in (folder / "tokens").iterdir())
        own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(f"  {size / 1e6:.0f} MB of tokens; at most {own / 1e6:.1f} GB, {children / 1e6:.1f} GB in a process")
        print("batches of 128, nothing else running:")
        throughput(folder, config.tokens, 0)
        print("sft, SmolLM2-135M, 80 % frozen, 16 examples a step:", flush=True)
        step_wait(folder, run, config.tokens, arguments.steps)


if __name__ == "__main__":
    main()
