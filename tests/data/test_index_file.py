import pickle

import numpy as np
import pytest

from rlhf_jax.data import index_file
from rlhf_jax.errors import UserError


def test_the_rows_of_a_split(tmp_path):
    np.save(tmp_path / "rows.npy", {"train": np.array([4, 0, 2]), "test": [1]}, allow_pickle=True)
    assert index_file.read(str(tmp_path / "rows.npy"), "train") == {0, 2, 4}
    assert index_file.read(str(tmp_path / "rows.npy"), "test") == {1}


def test_a_file_of_an_older_numpy(tmp_path):
    content = pickle.dumps(np.array({"train": [np.int64(7), 3]}, object), protocol=3)
    assert b"numpy._core.multiarray" in content
    np.save(tmp_path / "rows.npy", np.array(None, object), allow_pickle=True)
    header = (tmp_path / "rows.npy").read_bytes().partition(b"\n")[0] + b"\n"
    (tmp_path / "rows.npy").write_bytes(header + content.replace(b"numpy._core.", b"numpy.core."))
    assert index_file.read(str(tmp_path / "rows.npy"), "train") == {3, 7}


class Calls:
    """What a pickle may hold: the order to call a function."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    np.save(tmp_path / "rows.npy", {"train": Calls(str(tmp_path / "written"))}, allow_pickle=True)
    with pytest.raises(UserError, match=r"refused: it asks to call or make '_?io.open'"):
        index_file.read(str(tmp_path / "rows.npy"), "train")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "FileNotFoundError"),
        (b"no array", "expected a .npy of a dict"),
        (np.arange(3), "expected a .npy of a dict"),
        ({"test": [1]}, "KeyError: 'train'"),
        ({"train": 3}, "no row indices"),
        ({"train": [True, False]}, "no row indices: bool"),
        ({"train": [0.5]}, "no row indices: float64"),
        ({"train": [-1]}, "no row indices"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    file = tmp_path / "rows.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(UserError, match=rf"^{file} cannot be read as an index file .*{message}"):
        index_file.read(str(file), "train")
