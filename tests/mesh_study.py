"""The tiny study's stages that run a network, on a mesh: mesh_study.py:DATA,FSDP,TENSOR. `test_meshes` runs it."""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, tiny

STAGES = ("prepare", "initialize", "sft", "sample_pairs", "preferences", "reward", "ppo", "best_of_n")


def get_config(mesh: str = "1,1,1") -> ConfigDict:
    """The pipeline: eight rows a microbatch and four KV heads, so that the devices can share either, and four layers of
    which three are trained, so that two of those can be scanned.
    """
    study = tiny.get_config()
    stages = common.ordered(**{name: study.stages[name] for name in STAGES})
    stages.initialize.update({"kv_heads": 4, "layers": 4})
    stages.sft.freeze = 0.25
    sizes = common.mesh()
    sizes.data, sizes.fsdp, sizes.tensor = map(int, mesh.split(","))
    for stage in (stages.sft, stages.reward, stages.ppo):
        stage.update({"mesh": sizes, "microbatch": 8})
    stages.ppo.update({"prompts_per_rollout": 16, "sampling_batch": 8})  # two minibatches of eight
    stages.ppo.evaluate_every = 1  # a run may then be ended after any step and go on, with the same metrics
    for stage in (stages.sample_pairs, stages.best_of_n):
        stage.sampling.update({"mesh": sizes, "batch_size": 8})
    study.stages = stages
    return study
