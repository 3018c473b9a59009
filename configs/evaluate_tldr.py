"""What came of a row on TL;DR: samples, win rates, diversity, report (Kirk et al., 2024, section 6, App. J).

    export OPENAI_API_KEY=... OPENAI_MODEL=...
    python -m rlhf_jax.main --config=configs/evaluate_tldr.py:llama7b --workdir=runs/tldr/llama7b

The workdir is the row's folder, in which its stages prepare, sft, reward, ppo and best_of_n were run one by one.
`study.py` does all of this itself. The argument is a preset of `configs/rows.py`. `llama7b,offline` judges by the
simulated scorer.

Samples: 16 at temperature 1 of the first 500 posts and of the first 500 articles, from SFT and PPO. 64 of SFT at
temperature 0.7, from which the diversity of best-of-16 is simulated. The judge: the study's question to GPT-4, which
asks about a forum post in distribution and about a news article out of it. Each model's first sample against the
reference and against SFT's. The study's temperature there was not found, and it asked in one random order. Both orders
are asked here. Diversity as in the paper's tables (`mode = "paper"`), with its sentence encoder. Inference is left out:
600,000 pairs of sentences a model and split are days on a host. `--config.stages.evaluate.nli.model=roberta-large-mnli`
has it.

Expected by the study: wins best-of-16 > PPO > SFT in both columns, with like gaps (Figs. 2 to 4). Per input PPO's
diversity far below SFT's, best-of-16's like it (Fig. 5). Across inputs a little below (Fig. 6). PPO against SFT of
OPT-6.7B, per input (Table 11): EAD 0.07 and 0.79, Sentence-BERT 0.06 and 0.45. Across inputs (Table 12): EAD 0.87 and
0.87, best-of-16 0.86. OPT-125M, per input: EAD 0.15 and 0.81. Not run but as `tiny`.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, judge_llm, rows
from rlhf_jax.configs import evaluate as evaluate_config
from rlhf_jax.configs import judge as judge_config
from rlhf_jax.configs import report as report_config

ENCODER = "sentence-transformers/bert-large-nli-stsb-mean-tokens"  # the study's
WORDS = 40  # ours: what 48 tokens hold, so that the simulated scorer takes nothing off for length


def judge(folder: str, preset: str, seed, how: str, news: bool) -> ConfigDict:
    """Win rates by a language model, or offline by the gold scorer."""
    if how == "offline":
        config = judge_config.stage(folder, "lexical" if preset == rows.TINY else common.MINILM)
        config.gold.free_words = WORDS
        return config
    config = judge_llm.stage(folder, "tldr", seed)
    if news:
        config.llm.prompts = ConfigDict({"ood_test": "cnn_dailymail"})
    return config


def evaluate(folder: str, preset: str, seed) -> ConfigDict:
    """Diversity as in the paper's tables."""
    config = evaluate_config.stage(folder, ENCODER, seed)
    config.mode = "paper"
    return rows.sized(config, preset)


def stages(folder: str, preset: str, seed, title: str, how: str = "", news: bool = True) -> ConfigDict:
    """All of it, for the row in `folder`. `news` says that what is out of distribution is news, and not posts."""
    pool = rows.generate(folder, rows.TLDR, preset, "sft", seed)
    pool.sampling.update({"n": 4 * pool.sampling.n, "temperature": 0.7})
    evaluation = evaluate(folder, preset, seed)
    evaluation.pools = ConfigDict({"bon": f"{folder}/sample_pool/samples.jsonl"})
    report = report_config.stage(title, (folder,))
    report.reward_vs_kl = ""
    return common.ordered(
        sample_sft=rows.generate(folder, rows.TLDR, preset, "sft", seed),
        sample_ppo=rows.generate(folder, rows.TLDR, preset, "ppo", seed),
        sample_pool=pool,
        judge=judge(folder, preset, seed, how, news),
        evaluate=evaluation,
        report=report,
    )


def get_config(argument: str = "llama7b") -> ConfigDict:
    """The pipeline's config, by the preset. "PRESET,offline" for the simulated judge."""
    _, preset, how = rows.judged("evaluate_tldr.py", rows.TLDR, argument)
    title = f"TL;DR, {preset}"
    return common.ordered(stage="pipeline", title=title, seed=0, stages=stages("{workdir}", preset, 0, title, how))
