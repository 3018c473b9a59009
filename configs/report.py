"""The report of a study, made again.

    python -m rlhf_jax.main --config=configs/report.py:runs/quickstart --workdir=runs/report

The argument is the folder of a study with judgements, evaluation, samples and metrics.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage("RLHF on documentation", (study,))


def stage(title: str, runs: tuple[str, ...]) -> ConfigDict:
    """One report over the seeds of a study, the folders `runs`."""
    return common.ordered(
        stage="report",
        title=title,
        runs=runs,
        evaluation="evaluate/evaluation.json",
        judgements="judge/judgements.jsonl",
        ood="ood_test",
        samples=common.ordered(**{name: path.removeprefix("./") for name, path in common.samples(".").items()}),
        training={name: f"{name}/metrics.jsonl" for name in ("sft", "reward", "ppo")},
        reward_vs_kl="reward_vs_kl/reward_vs_kl.json",
        quality="reward/quality.json",
        notes=(),
    )
