"""What came of a row on instructions: samples, win rates, reports (Kirk et al., 2024, section 6).

    export OPENAI_API_KEY=... OPENAI_MODEL=...
    python -m rlhf_jax.main --config=configs/evaluate_alpaca.py:llama7b --workdir=runs/alpaca/llama7b

The workdir is the row's folder, in which its stages prepare, sft, reward, ppo and best_of_n were run one by one.
`study.py` does all of this itself. The argument is a preset of `configs/rows.py`. `llama7b,offline` judges by
likeness to the reference (ROUGE-L), which compares models alone.

In distribution is the test made as Alpaca was. Out of it AlpacaEval (easy) in `report` and Sequential Instructions
(hard) in `report_sequential`. The judge answers in the form of the stock AlpacaEval annotator that the study used, to a
question of our own words, in both orders. One sample a prompt at temperature 1: the study gave up the diversity of
instruction following, because its metrics are made for short texts. `--config.stages.sample_sft.sampling.n=16` has it.

Expected by the study: PPO and best-of-16 win more than SFT everywhere, PPO most. Against SFT both gain some 3.5 points
from the test in distribution to AlpacaEval. On Sequential Instructions PPO is far ahead. Not run but as `tiny`.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, judge_llm, rows
from rlhf_jax.configs import evaluate as evaluate_config
from rlhf_jax.configs import report as report_config


def judge(folder: str, seed, how: str) -> ConfigDict:
    """Win rates by a language model, or offline by likeness to the reference."""
    config = judge_llm.stage(folder, "instruction", seed)
    if how == "offline":
        del config.llm, config.pairs
        config.update({"similarity": "rouge_l", "against_reference": False})
    return config


def stages(folder: str, preset: str, seed, title: str, how: str = "") -> ConfigDict:
    """All of it, for the row in `folder`."""
    report, sequential = (report_config.stage(f"{title}: {name}", (folder,)) for name in ("AlpacaEval", "Sequential"))
    report.reward_vs_kl = sequential.reward_vs_kl = ""
    sequential.ood = "sequential_test"
    evaluate = evaluate_config.stage(folder, common.MINILM, seed)
    return common.ordered(
        sample_sft=rows.generate(folder, rows.ALPACA, preset, "sft", seed),
        sample_ppo=rows.generate(folder, rows.ALPACA, preset, "ppo", seed),
        judge=judge(folder, seed, how),
        evaluate=rows.sized(evaluate, preset),
        report=report,
        report_sequential=sequential,
    )


def get_config(argument: str = "llama7b") -> ConfigDict:
    """The pipeline's config, by the preset. "PRESET,offline" for the judge without an endpoint."""
    _, preset, how = rows.judged("evaluate_alpaca.py", rows.ALPACA, argument)
    title = f"Instructions, {preset}"
    return common.ordered(stage="pipeline", title=title, seed=0, stages=stages("{workdir}", preset, 0, title, how))
