"""A row of the study: all stages of one task with one base model, from its data to its report.

    export OPENAI_API_KEY=... OPENAI_MODEL=...
    python -m rlhf_jax.main --config=configs/study.py:tldr,llama7b --workdir=runs/tldr/llama7b
    python -m rlhf_jax.main --config=configs/study.py:alpaca,llama7b --workdir=runs/alpaca/llama7b
    python -m rlhf_jax.main --config=configs/study.py:tldr,opt6_7b,length --workdir=runs/tldr/opt6_7b_length

The argument is a task (tldr, alpaca), a preset of `configs/rows.py` and, in any order, `offline` for a judge without an
endpoint and, for tldr, a shift within its posts: relationships, length or sentiment (docs/data.md). The study is the
two rows of llama7b. `configs/sweeps/opt_scaling.py` and `configs/sweeps/shifts.py` have those of its appendices, and
`kl_sweep.py` starts from a row. What each stage does and what is expected of it: `sft_tldr.py`, `reward_tldr.py`,
`ppo_tldr.py`, `bon_tldr.py`, `evaluate_tldr.py` and those of alpaca.

The shift `sentiment` reads the study's row numbers from data/sentiment/tldr.npy and tldr_preferences.npy, which are in
its repository. A classifier can find them instead (docs/data.md): of both stages, `prepare` and `prepare_preferences`,

    --config.stages.prepare.sources.tldr.shift.indices= --config.stages.prepare.sources.tldr.shift.classifier=NAME

Under it SFT and the reward model are trained for one epoch of its rows, 456 and 725 steps. How many rows the other two
shifts have was not found, and they are trained as long.

The preset `tiny` is all of a row at the size of a laptop, on 64 records and with random weights: it shows that the
stages fit, and nothing else. `--config.stages.prepare.sources.tldr.path=FOLDER` and the like read local files.

Run whole: `tldr,tiny`, with a judge that answers by rule, and `alpaca,tiny,offline`, both on made-up files
(tests/test_experiments.py). The others: not run. Docs/experiments.md says what each needs.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from rlhf_jax.configs import (
    bon_alpaca,
    bon_tldr,
    common,
    evaluate_alpaca,
    evaluate_tldr,
    initialize,
    ppo_alpaca,
    ppo_tldr,
    prepare,
    reward_alpaca,
    reward_tldr,
    rows,
    sft_alpaca,
    sft_tldr,
)

SHIFTS = ("relationships", "length", "sentiment")


def data(preset: str, seed, **stages: ConfigDict) -> ConfigDict:
    """The stages that prepare a row's data and, for `tiny`, make its model of them."""
    for stage in stages.values():
        stage.seed = seed
        rows.sized(stage, preset)
    if preset == rows.TINY:
        stages["initialize"] = initialize.stage("{workdir}", seed)
    return common.ordered(**stages)


def tldr(preset: str, seed, title: str, how: str, shift: str) -> ConfigDict:
    """TL;DR, out of distribution CNN/DailyMail or the rest of TL;DR."""
    examples, pairs = prepare.tldr(shift), prepare.tldr_preferences(shift)
    if shift == "sentiment":
        examples.sources.tldr.shift.indices = "data/sentiment/tldr.npy"
        pairs.sources.tldr.shift.indices = "data/sentiment/tldr_preferences.npy"
    sft, reward = (module.stage("{workdir}", preset, seed) for module in (sft_tldr, reward_tldr))
    if shift and preset != rows.TINY:
        sft.steps, reward.steps = 456, 725  # 58,361 rows by 128 and 46,411 by 64
    return common.ordered(
        **data(preset, seed, prepare=examples, prepare_preferences=pairs),
        sft=sft,
        reward=reward,
        ppo=ppo_tldr.stage("{workdir}", preset, seed),
        best_of_n=bon_tldr.stage("{workdir}", preset, seed),
        **evaluate_tldr.stages("{workdir}", preset, seed, title, how, news=not shift),
    )


def alpaca(preset: str, seed, title: str, how: str) -> ConfigDict:
    """AlpacaFarm, out of distribution AlpacaEval and Sequential Instructions."""
    return common.ordered(
        **data(
            preset,
            seed,
            prepare=prepare.alpaca(),
            prepare_prompts=prepare.alpaca_prompts(),
            prepare_preferences=prepare.alpaca_preferences(),
        ),
        sft=sft_alpaca.stage("{workdir}", preset, seed),
        reward=reward_alpaca.stage("{workdir}", preset, seed),
        ppo=ppo_alpaca.stage("{workdir}", preset, seed),
        best_of_n=bon_alpaca.stage("{workdir}", preset, seed),
        **evaluate_alpaca.stages("{workdir}", preset, seed, title, how),
    )


def get_config(argument: str = "tldr,llama7b") -> ConfigDict:
    """The pipeline's config, by task, preset and options."""
    task, _, rest = argument.partition(",")
    preset, *options = rest.split(",")
    common.check_argument("study.py", task, "tldr", "alpaca")
    common.check_argument(f"study.py:{task}", preset, *rows.PRESETS)
    for option in options:
        common.check_argument(f"study.py:{task},{preset}", option, "offline", *(SHIFTS if task == "tldr" else ()))
    how = "offline" if "offline" in options else ""
    shifts = [option for option in options if option != "offline"]
    if len(shifts) > 1:
        raise ValueError(f"study.py:{argument} names the shifts {' and '.join(shifts)}, expected one")
    seed, title = FieldReference(0), f"Study: {', '.join([task, preset, *options])}"
    row = (preset, seed, title, how)
    stages = tldr(*row, "".join(shifts)) if task == "tldr" else alpaca(*row)
    return common.ordered(stage="pipeline", title=title, seed=seed, stages=stages)
