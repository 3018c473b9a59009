"""A page on which people judge a study's outputs, blind to who wrote them; it is one file and needs no server.

    python -m rlhf_jax.main --config=configs/annotate.py:runs/quickstart --workdir=runs/annotate

Send annotate.html to your annotators and keep key.jsonl. What they save is judged, and then reported, like any judge's:

    python -m rlhf_jax.main --config=configs/annotate.py:runs/quickstart,judge --workdir=runs/people \\
        --config.people.key=runs/annotate/key.jsonl --config.people.answers="('answers-ab.jsonl', 'answers-cd.jsonl')"
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder; "FOLDER,judge" for the judge that reads the answers."""
    study, _, what = argument.partition(",")
    common.check_argument("annotate.py:FOLDER", what, "", "judge")
    page = common.annotate(study, 0)
    if not what:
        return page
    people = ConfigDict({"key": "runs/annotate/key.jsonl", "answers": ("answers.jsonl",)})
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
