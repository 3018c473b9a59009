"""The tiny study and more stages, so that it has every kind of output: tokens, exports, a page. For `test_kills`."""

from ml_collections import ConfigDict

from rlhf_jax.configs import annotation_page, common, export, tiny


def get_config() -> ConfigDict:
    """The pipeline. What is added reads only what the tiny study has written."""
    study = tiny.get_config()
    stages = {name: study.stages[name] for name in study.stages}
    tokenised = ConfigDict(stages["prepare"].to_dict())
    tokenised.tokens = {
        "model": tiny.MODEL,
        "max_prompt": 256,
        "truncation": "text",
        "separator": " ",
        "num_workers": 0,
    }
    added = {"tokenise": tokenised}
    for run in ("ppo", "reward"):
        added[f"export_{run}"] = export.get_config("{workdir}")
        added[f"export_{run}"].update({"model": tiny.MODEL, "run": f"{{workdir}}/{run}"})
    added["page"] = annotation_page.get_config("{workdir}")
    last = {"report": stages.pop("report")}
    study.stages = common.ordered(**stages, **added, **last)
    return study
