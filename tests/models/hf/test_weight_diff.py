import shutil
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import save_pretrained
from rlhf_jax.models.hf.sources import FolderSource
from rlhf_jax.models.hf.weight_diff import DifferenceSource
from tests import released, tiny
from tests.models.hf.test_sources import write_torch


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return released.write(tmp_path_factory.mktemp("policy"))


def opened(base: str, folder: Path) -> DifferenceSource:
    return DifferenceSource(FolderSource(Path(base)), folder)


@pytest.mark.parametrize(("reward", "frequencies"), [(False, True), (True, True), (True, False)])
def test_base_and_difference_are_the_tuned_model(tmp_path, reward, frequencies):
    base, folder, tuned = released.write(tmp_path, reward, frequencies)
    source = opened(base, folder)
    assert source.architecture.vocabulary == tiny.VOCABULARY + 1
    assert source.names() == tuned.keys()
    for name, tensor in tuned.items():
        found = source.tensor(name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, tensor, rtol=0, atol=2e-6)
    assert source.check_sum() == pytest.approx(float((folder / "model_sum.txt").read_text()), abs=1e-3)
    assert (source.head is not None) == reward
    if reward:
        kernel, bias = source.head
        assert bias == 0.75
        np.testing.assert_array_equal(kernel, np.linspace(-1, 1, 32).astype(np.float32))


def test_another_base_model_does_not_have_the_sum(tmp_path, policy):
    base, folder, _ = policy
    model, params = tiny.network(tied=False, layers=2, seed=2)
    save_pretrained(tmp_path / "other", model, params)
    shutil.copytree(base, tmp_path / "other", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(
        UserError, match=r"difference sum to -?[\d.]+, expected -?[\d.]+ \(model_sum.txt\); this is not"
    ):
        opened(str(tmp_path / "other"), folder).check_sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.norm.weight": None}, "model.norm.weight is missing from .* or unexpected there"),
        ({"model.embed_tokens.weight": None}, "the difference has no tensor model.embed_tokens.weight"),
        ({"model.norm.weight": np.zeros(16, np.float32)}, r"model.norm.weight has the shape \(16,\), the base .*"),
    ],
)
def test_tensors_of_another_model_are_named(tmp_path, policy, changes, message):
    base, folder, tuned = policy
    tensors = {name: tensor for name, tensor in {**tuned, **changes}.items() if tensor is not None}
    write_torch(tmp_path / "pytorch_model.bin", tensors)
    shutil.copy(folder / "model_sum.txt", tmp_path)
    with pytest.raises(UserError, match=message):
        opened(base, tmp_path).check_sum()
