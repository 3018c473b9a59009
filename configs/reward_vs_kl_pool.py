"""Reward against KL on one seed of the long study: best-of-n up to 64 and PPO as it goes on, of the same prompts.

    python -m rlhf_jax.main --config=configs/reward_vs_kl_pool.py:runs/long/seed_0 --workdir=runs/reward_vs_kl

The argument is the folder of the seed whose SFT policy and reward model are taken. PPO is run anew, as in the study,
now with samples of the test prompts along the way. The pool of best-of-n is drawn at temperature 1, where PPO's KL is
measured, and once more at 0.7, where the study samples it, for a curve apart. The pool at 0.7 also gives the per-input
diversity of best-of-16, by simulated sets.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, evaluate, generate, quickstart, reward_vs_kl

PROMPTS = {"id_test": 48, "ood_test": 48}


def get_config(study: str = "runs/long/seed_0") -> ConfigDict:
    """The pipeline's config, by the folder of the seed."""
    data = f"{study}/../prepare/examples.jsonl"
    seed = 0
    ppo = quickstart.long_seed(seed).stages.ppo
    ppo.update({"policy": f"{study}/sft", "reward": f"{study}/reward", "data": data})
    ppo.evaluate_prompts = ConfigDict(PROMPTS)
    ppo.evaluate_every = 4
    pool, cold = (generate.stage(study, common.SMOLLM2, "sft", seed) for _ in range(2))
    for samples, temperature in ((pool, 1.0), (cold, 0.7)):
        samples.sampling.update({"data": data, "n": 64, "temperature": temperature})
        samples.sampling.prompts = ConfigDict(PROMPTS)
    pools = {name: f"{{workdir}}/{name}/samples.jsonl" for name in ("pool", "pool_cold")}
    evaluation = evaluate.stage(study, common.MINILM, seed)
    evaluation.pools = ConfigDict({"bon": "{workdir}/pool_cold/samples.jsonl"})
    return common.ordered(
        stage="pipeline",
        title="Reward against KL",
        seed=seed,
        stages=common.ordered(
            pool=pool,
            pool_cold=cold,
            ppo=ppo,
            reward_vs_kl=reward_vs_kl.stage(pools, "{workdir}", seed),
            evaluate=evaluation,
        ),
    )
