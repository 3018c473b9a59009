"""PPO on TL;DR by its KL coefficient: win rates, KL and diversity of each, in one report (Kirk et al., 2024, App. I).

    export OPENAI_API_KEY=... OPENAI_MODEL=...
    python -m rlhf_jax.main --config=configs/kl_sweep.py:llama7b --workdir=runs/tldr/llama7b/kl_sweep

The argument is a preset of `configs/rows.py`. `llama7b,offline` judges by the simulated scorer. It starts from the
stages prepare, sft and reward of the row in runs/tldr/llama7b. The coefficients of the study's Figures 11 to 13 were
not found: these are ours, around its 0.05.

Expected (section 6.3, App. I): a larger coefficient lowers both performance and, what surprises, per-input diversity.
Not run. `configs/sweeps/kl.py` is the same question on documentation, for a laptop.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from rlhf_jax.configs import common, evaluate_tldr, ppo_tldr, rows
from rlhf_jax.configs import report as report_config

COEFFICIENTS = (0.01, 0.025, 0.05, 0.1, 0.2)


def get_config(argument: str = "llama7b") -> ConfigDict:
    """The pipeline's config, by the preset. "PRESET,offline" for the simulated judge."""
    row, preset, how = rows.judged("kl_sweep.py", rows.TLDR, argument)
    seed, title = FieldReference(0), f"TL;DR by the KL coefficient, {preset}"
    stages = {"sample_sft": rows.generate(row, rows.TLDR, preset, "sft", seed)}
    samples, training = {"sft": "sample_sft/samples.jsonl"}, {}
    for coefficient in COEFFICIENTS:
        name = f"beta_{coefficient}".replace(".", "_")
        ppo = ppo_tldr.stage(row, preset, seed)
        ppo.algorithm.kl_coef = coefficient
        sample = rows.generate(row, rows.TLDR, preset, "ppo", seed)
        sample.name, sample.sampling.policy = name, f"{{workdir}}/{name}"
        stages |= {name: ppo, f"sample_{name}": sample}
        samples[name], training[name] = f"sample_{name}/samples.jsonl", f"{name}/metrics.jsonl"
    judge = evaluate_tldr.judge("{workdir}", preset, seed, how, news=True)
    evaluate = evaluate_tldr.evaluate("{workdir}", preset, seed)
    judge.samples = evaluate.samples = common.ordered(**{name: f"{{workdir}}/{path}" for name, path in samples.items()})
    report = report_config.stage(title, ("{workdir}",))
    report.update({"reward_vs_kl": "", "quality": ""})
    report.samples, report.training = common.ordered(**samples), common.ordered(**training)
    everything = common.ordered(**stages, judge=judge, evaluate=evaluate, report=report)
    return common.ordered(stage="pipeline", title=title, seed=seed, stages=everything)
