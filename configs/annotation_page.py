"""A page on which people judge a study's outputs, blind to who wrote them. It is one file and needs no server.

    python -m rlhf_jax.main --config=configs/annotation_page.py:runs/quickstart --workdir=runs/annotation_page

Send annotation_page.html to your annotators and keep key.jsonl. Then judge and report what they save:

    python -m rlhf_jax.main --config=configs/annotation_page.py:runs/quickstart,judge --workdir=runs/people \\
        --config.people.key=runs/annotation_page/key.jsonl \\
        --config.people.answers="('answers-ab.jsonl', 'answers-cd.jsonl')"
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(argument: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder. "FOLDER,judge" for the judge that reads the answers."""
    study, _, what = argument.partition(",")
    common.check_argument("annotation_page.py:FOLDER", what, "", "judge")
    page = stage(study, 0)
    if not what:
        return page
    people = ConfigDict({"key": "runs/annotation_page/key.jsonl", "answers": ("answers.jsonl",)})
    return ConfigDict(
        {
            "stage": "judge",
            "samples": page.samples,
            "baseline": page.baseline,
            "people": people,
            "against_reference": page.against_reference,
            "pairs": page.pairs,
        }
    )


def stage(folder: str, seed) -> ConfigDict:
    """A page for people: every model against the human summary and against SFT, 20 prompts a split."""
    return ConfigDict(
        {
            "stage": "annotation_page",
            "title": "Which summary is better?",
            "instructions": "Choose the summary that says most of what matters in the text, and nothing false.",
            "samples": common.samples(folder),
            "baseline": "sft",
            "against_reference": True,
            "prompts": 20,
            "pairs": 1,
            "seed": seed,
        }
    )
