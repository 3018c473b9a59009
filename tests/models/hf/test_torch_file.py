"""PyTorch checkpoints: one that torch wrote, others laid out here by hand as torch.save would, and hostile ones."""

import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.models.hf import torch_file
from rlhf_jax.models.hf.torch_file import open_checkpoint
from tests.torch_save import NO_HOOKS, SIX, Code, call, code, named, storage, tensor, write

GOLDEN = Path(__file__).parents[2] / "golden" / "torch_checkpoint.bin"


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "model.bin"


def refused(path: Path) -> str:
    """The message with which a file is refused. It names the file and is one line."""
    with pytest.raises(UserError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 300
    return message.removeprefix(f"{path}: ")


def refused_pickle(path: Path) -> str:
    """The reason for which its pickle is refused."""
    return refused(path).removeprefix("the pickle is refused: ")


def test_a_file_that_torch_wrote():
    """Written by torch 2.13 as `torch.save(module.state_dict(keep_vars=True), path)`, where

    `module.table = module.tied = Parameter(torch.arange(12.0).reshape(4, 3) / 8)` and the buffers are
    `as_<dtype>`: `(torch.arange(6).reshape(2, 3) - 2).to(dtype)`, `transposed`: `table.T`, `sliced`: `table[1:, 1:]`,
    `scalar`: `torch.tensor(1.5)`, `empty`: `torch.zeros(0, 3)`.
    """
    table = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
    small = np.arange(6).reshape(2, 3) - 2
    dtypes = {name: np.dtype(name) for name in ("float16", "float64", "int64", "bool")}
    dtypes["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    expected = {
        "table": table,
        "tied": table,
        "transposed": table.T,
        "sliced": table[1:, 1:],
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        **{f"as_{name}": small.astype(dtype) for name, dtype in dtypes.items()},
    }
    tensors = open_checkpoint(GOLDEN)
    assert tensors.keys() == expected.keys()
    for name, values in expected.items():
        assert (tensors[name].shape, tensors[name].dtype) == (values.shape, values.dtype)
        read = tensors[name].read()
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values, err_msg=name)
    assert tensors["table"].start == tensors["tied"].start


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("Double", np.float64),
        ("Float", np.float32),
        ("Half", np.float16),
        ("BFloat16", ml_dtypes.bfloat16),
        ("Long", np.int64),
        ("Int", np.int32),
        ("Short", np.int16),
        ("Char", np.int8),
        ("Byte", np.uint8),
        ("Bool", np.bool_),
        ("ComplexFloat", np.complex64),
        ("ComplexDouble", np.complex128),
    ],
)
def test_every_storage_has_its_dtype(file, kind, dtype):
    values = np.arange(-3, 3).astype(dtype) if kind != "Byte" else np.arange(250, 256, dtype=np.uint8)
    within = storage(kind=f"torch.{kind}Storage")
    write(file, {"x": tensor((2, 3), (3, 1), 0, within)}, {"data/0": values.tobytes()})
    read = open_checkpoint(file)["x"].read()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values.reshape(2, 3))


def test_any_view_inside_its_storage(file):
    """NumPy's own strides over the same buffer say what each view holds."""
    rng, values = random.Random(0), np.arange(60, dtype=np.float32)
    views = {}
    while len(views) < 60:
        shape = tuple(rng.randint(0, 4) for _ in range(rng.randint(0, 3)))
        strides, offset = tuple(rng.choice([1, 2, 3, 4, 12]) for _ in shape), rng.randint(0, 20)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if last < 60:
            views[f"view {len(views)}"] = (shape, strides, offset)
    within = storage(size=60)
    write(file, {name: tensor(*view, within) for name, view in views.items()}, {"data/0": values.tobytes()})
    for name, view in open_checkpoint(file).items():
        shape, strides, offset = views[name]
        steps = [4 * stride for stride in strides]
        np.testing.assert_array_equal(view.read(), np.lib.stride_tricks.as_strided(values[offset:], shape, steps))


@pytest.mark.parametrize("strides", [(1, 10**18), (10**18, 1)])
def test_the_stride_of_an_axis_of_one_or_none_is_not_looked_at(file, strides):
    shape = tuple(1 if stride > 1 else 6 for stride in strides)
    write(file, {"x": tensor(shape, strides), "empty": tensor((0, 5), (10**18, 10**18))})
    tensors = open_checkpoint(file)
    np.testing.assert_array_equal(tensors["x"].read(), np.arange(6, dtype=np.float32).reshape(shape))
    assert tensors["empty"].read().shape == (0, 5)


def test_parameters_metadata_plain_dicts_and_other_protocols(file):
    """torch.save keeps a module's versions as an attribute of the OrderedDict. `pickle_protocol=4` is allowed there."""
    ordered = Code(NO_HOOKS + b"(" + code("x") + tensor((6,), (1,)) + b"u")
    with_versions = Code(ordered + code({"_metadata": {"": {"version": 2}}}) + b"b")
    parameter = call("torch._utils._rebuild_parameter", tensor((6,), (1,)), True, NO_HOOKS)
    short = b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94"
    framed = Code(b"\x95" + struct.pack("<Q", len(short)) + short + code("x") + tensor((6,), (1,)) + b"s")
    for content, header in (
        (with_versions, b"\x80\x02"),
        ({"x": parameter}, b"\x80\x02"),
        (framed, b"\x80\x04"),
    ):
        (only,) = open_checkpoint(write(file, content, header=header)).values()
        np.testing.assert_array_equal(only.read(), np.arange(6, dtype=np.float32))


def test_only_the_bytes_of_a_tensor_are_read(file):
    """Opening a file and reading a slice take no memory in proportion to the storage. A whole tensor takes it once."""
    numbers = 2**20
    views = {"whole": tensor((numbers,), (1,), 0, storage(size=numbers))}
    views["slice"] = tensor((10,), (1,), 1000, storage(size=numbers))
    write(file, views, {"data/0": np.arange(numbers, dtype=np.float32).tobytes()})
    tracemalloc.start()
    try:
        tensors = open_checkpoint(file)
        np.testing.assert_array_equal(tensors["slice"].read(), np.arange(1000, 1010, dtype=np.float32))
        assert tracemalloc.get_traced_memory()[1] < 2**19
        tensors["whole"].read()
        assert tracemalloc.get_traced_memory()[1] < 4 * numbers + 2**19
    finally:
        tracemalloc.stop()


def stack_global(module: str, name: str) -> Code:
    return Code(code(module) + code(name) + b"\x93")


def hostile(marker: Path) -> dict[str, tuple[Code, str]]:
    """Programs that make the file `marker` when pickle follows them, and the global whose name the refusal gives."""
    touch = f"open({str(marker)!r}, 'w').close()"
    shell = f"touch '{marker}'"
    import_os = call("builtins.__import__", "os")
    return {
        "system": (call("os.system", shell), "os.system"),
        "eval": (call("builtins.eval", touch), "builtins.eval"),
        "getattr": (Code(call("builtins.getattr", import_os, "system") + code((shell,)) + b"R"), "builtins.getattr"),
        "stack": (Code(stack_global("posix", "system") + code((shell,)) + b"R"), "posix.system"),
        "dotted": (Code(stack_global("zipfile", "os.system") + code((shell,)) + b"R"), "zipfile.os.system"),
        "newobj": (Code(named("subprocess.Popen") + code((["touch", str(marker)],)) + b"\x81"), "subprocess.Popen"),
        "within": (call("collections.OrderedDict", [("x", call("builtins.exec", touch))]), "builtins.exec"),
        "key": (Code(code(("storage", call("os.system", shell), "0", "cpu", 6)) + b"Q"), "os.system"),
        "attribute": (Code(NO_HOOKS + code({"keys": call("os.system", shell)}) + b"b"), "os.system"),
    }


@pytest.mark.parametrize("kind", hostile(Path("marker")))
def test_a_call_is_refused_by_name_and_not_made(tmp_path, file, kind):
    marker = tmp_path / "ran"
    program, name = hostile(marker)[kind]
    header = b"\x80\x04"  # pickle itself follows dots in names since protocol 4
    message = refused(write(file, program, header=header))
    assert f"it asks to call or make '{name}' (nothing in the file was run)" in message
    assert not marker.exists()
    if kind not in ("key", "newobj"):  # a persistent id needs a loader of its own, Popen an __init__
        pickle.loads(header + program + b".")
        assert marker.exists(), "the program does what was refused"


class Evil:
    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_is_refused_in_every_protocol(file, protocol):
    assert ".eval'" in refused(write(file, pickle.dumps(Evil(), protocol)))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x82\x05", "the instruction EXT1 is not allowed"),
        (b"(" + code("echo") + b"ios\nsystem\n", "the instruction INST is not allowed"),
        (b"(" + named("torch.FloatStorage") + b"o", "the instruction OBJ is not allowed"),
        (named("torch.FloatStorage") + b")\x81", "the instruction NEWOBJ is not allowed"),
        (b"P0\n", "the instruction PERSID is not allowed"),
        (b"0", "the instruction POP is not allowed"),
        (b"\x8e" + struct.pack("<Q", 2**62), "the instruction BINBYTES8 is not allowed"),
        (b"\x8b" + struct.pack("<i", 2**31 - 1), "the instruction LONG4 is not allowed"),
        (b"\xff", "the instruction 255 is not allowed"),
        (b"X" + struct.pack("<I", 2**32 - 1), "damaged, "),
        (b"R", "damaged, IndexError"),
        (b"]" + code("x") + code("y") + b"s", "found list in place of dict"),
        (b"})" + code("y") + b"s", "a key of a dict is tuple"),
        (code(("a",)) + code("b") + b"\x93", "damaged, UnpicklingError: STACK_GLOBAL requires str"),
    ],
)
def test_instructions_that_describe_no_tensors(file, program, message):
    assert refused_pickle(write(file, Code(program))).startswith(message)


@pytest.mark.parametrize(
    "target", [tensor((6,), (1,)), storage(), named("torch.FloatStorage"), named("collections.OrderedDict"), code("x")]
)
def test_only_the_attributes_of_a_dict_are_passed_over(file, target):
    state = {"start": 0, "shape": (2**40,)}
    assert "has no state" in refused_pickle(write(file, {"x": Code(target + code(state) + b"b")}))


def test_bombs_are_neither_hashed_nor_kept(file):
    """Each of these hangs, crashes or fills the memory of a program that uses `pickle.Unpickler`."""
    deep = Code(b"})" + b"\x85" * 300_000 + code(1) + b"s")
    doubled = Code(b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(64)) + code(1) + b"s")
    assert "a key of a dict is tuple" in refused_pickle(write(file, deep))
    assert "a key of a dict is tuple" in refused_pickle(write(file, doubled))
    far = Code(b"}r" + struct.pack("<I", 2**32 - 1))
    assert open_checkpoint(write(file, far)) == {}


TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (call(TENSOR, "0", 0, (6,), (1,), False, NO_HOOKS), "a tensor views str, expected storage"),
        (call(TENSOR, storage(), 0, (6,), (1,), False, NO_HOOKS, {"conj": True}), "damaged, TypeError"),
        (call(PARAMETER, storage(), True, NO_HOOKS), "a parameter is storage, expected tensor"),
        (call("collections.OrderedDict", [("x", 1)]), "damaged, TypeError"),
        (Code(code(TENSOR) + b")R"), "damaged, TypeError"),
        (Code(NO_HOOKS + code([1]) + b"b"), "the attributes of a dict are list, expected dict"),
        (Code(code(("storage", named(TENSOR), "0", "cpu", 6)) + b"Q"), "a storage is not described as torch.save does"),
        (
            Code(code(("module", named("torch.FloatStorage"), "0", "cpu", 6)) + b"Q"),
            "a storage is not described as torch.save does",
        ),
        (storage(key=0), "a storage is not described as torch.save does"),
        (storage(key="1"), "the record 'data/1' is missing"),
        (storage(key="../../../etc/passwd"), "the record 'data/../../../etc/passwd' is missing"),
        (storage(size=7), "'archive/data/0' has 24 bytes, expected 7 of float32, 4 bytes each"),
        (storage(kind="torch.DoubleStorage"), "'archive/data/0' has 24 bytes, expected 6 of float64, 8 bytes each"),
        (storage(kind="torch.QInt8Storage"), "it asks to call or make 'torch.QInt8Storage'"),
        (storage(kind="torch.storage.UntypedStorage"), "it asks to call or make 'torch.storage.UntypedStorage'"),
        (
            tensor((7,), (1,)),
            "a tensor of shape (7,), strides (1,) and offset 0 does not fit its storage of 6 elements",
        ),
        (tensor((6,), (1,), 1), "a tensor of shape (6,), strides (1,) and offset 1 does not fit"),
        (tensor((2, 3), (4, 1)), "a tensor of shape (2, 3), strides (4, 1) and offset 0 does not fit"),
        (tensor((2**62, 2**62), (0, 0)), "a tensor of shape"),
        (tensor((0, 2**62), (1, 1)), "a tensor of shape"),
        (tensor((1, 6), (1, -1), 5), "the offset, shape or strides of a tensor"),
        (tensor((6,), (1,), -1), "the offset, shape or strides of a tensor"),
        (tensor((6,), (1, 1)), "the offset, shape or strides of a tensor"),
        (tensor((True,), (1,)), "the offset, shape or strides of a tensor"),
        (tensor([6], [1]), "the offset, shape or strides of a tensor"),
        (tensor((1,) * 65, (1,) * 65), "the offset, shape or strides of a tensor"),
    ],
)
def test_descriptions_that_do_not_hold(file, value, message):
    assert refused_pickle(write(file, {"x": value})).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor((6,), (1,)), "holds tensor, expected a flat dict from names to tensors"),
        ([tensor((6,), (1,))], "holds list, expected a flat dict"),
        ({"state_dict": {"x": tensor((6,), (1,))}}, "the entry 'state_dict' maps str to dict, expected str to tensor"),
        ({"x": tensor((6,), (1,)), "epoch": 3}, "the entry 'epoch' maps str to int"),
        ({0: tensor((6,), (1,))}, "the entry 0 maps int to tensor"),
        ({"x": storage()}, "the entry 'x' maps str to storage"),
        ({"\x1b[2J" * 100: 1}, r"the entry '\x1b[2J"),
    ],
)
def test_anything_but_a_flat_dict_is_named(file, content, message):
    assert refused(write(file, content)).startswith(message)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"byteorder": b"big"}, "the byte order is b'big', expected b'little'; load it once in torch and save"),
        ({"byteorder": b"l" * 17}, "'archive/byteorder' has 17 bytes, expected at most 16"),
        ({"data.pkl": None}, "0 folders hold a data.pkl, expected one"),
        ({"constants.pkl": b""}, "a TorchScript archive, expected a dict of tensors; load it once in torch and save"),
        ({"data/0": b""}, "the pickle is refused: 'archive/data/0' has 0 bytes, expected 6 of float32"),
    ],
)
def test_records_that_do_not_fit(file, records, message):
    assert refused(write(file, {"x": tensor((6,), (1,))}, {**SIX, **records})).startswith(message)


def test_a_path_that_climbs_is_a_name_like_any_other(file):
    """Nothing is ever extracted."""
    path = write(file, {"x": tensor((6,), (1,))}, {**SIX, "../other/data.pkl": b"", "../../data/0": b""})
    np.testing.assert_array_equal(open_checkpoint(path)["x"].read(), np.arange(6, dtype=np.float32))


def test_files_without_a_byte_order_are_little_endian(file):
    path = write(file, {"x": tensor((6,), (1,))}, {**SIX, "byteorder": None})
    np.testing.assert_array_equal(open_checkpoint(path)["x"].read(), np.arange(6, dtype=np.float32))


def test_a_description_larger_than_any_real_one_is_not_read(file, monkeypatch):
    monkeypatch.setattr(torch_file, "_LARGEST_PICKLE", 20)
    message = refused(write(file, {"x": tensor((6,), (1,))}))
    assert message.startswith("'archive/data.pkl' has ") and message.endswith("expected at most 20")


def test_archives_that_torch_does_not_write(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("b/data.pkl", b"\x80\x02}.")
    assert refused(file).startswith("2 folders hold a data.pkl, expected one")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data.pkl", b"\x80\x02].")
    assert refused(file) == "two records are named 'a/data.pkl'"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    assert refused(file).startswith("the record 'a/data.pkl' is compressed, encrypted or runs into the next")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (8, struct.pack("<H", 1)),  # the flag of encryption
        (20, struct.pack("<II", 25, 25)),  # one byte more than there is before the next record
        (42, struct.pack("<I", 1)),  # another place, which is no header
    ],
)
def test_a_directory_that_lies_about_a_record(file, field, value):
    content = bytearray(write(file, {"x": tensor((6,), (1,))}).read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/0"))
    content[entry + field : entry + field + len(value)] = value
    file.write_bytes(content)
    assert refused(file).startswith("the record 'archive/")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
            "in the format of torch.save before version 1.6",
        ),
        (b"version https://git-lfs", "starts with b'version https:/"),
        (b"", "starts with b'', expected a zip archive"),
        (b"PK\x03\x04", "a damaged or truncated zip archive"),
    ],
)
def test_other_files(file, content, message):
    file.write_bytes(content)
    assert refused(file).startswith(message)


def test_a_path_that_cannot_be_read(tmp_path):
    assert refused(tmp_path / "none.bin") == "cannot be read (No such file or directory)"
    assert refused(tmp_path) == "cannot be read (Is a directory)"


def test_a_file_that_is_cut_or_goes_after_it_was_opened(file):
    opened = open_checkpoint(write(file, {"x": tensor((6,), (1,))}))["x"]
    file.write_bytes(file.read_bytes()[: opened.start + 20])
    with pytest.raises(UserError, match="model.bin: changed since it was opened; it is 4 bytes too short"):
        opened.read()
    file.unlink()
    with pytest.raises(UserError, match=r"model.bin: cannot be read \(No such file"):
        opened.read()


def test_damage_anywhere_is_refused_or_harmless(file):
    """Cut anywhere the file is refused. With a byte changed it is refused, or all that it describes can be read."""
    whole, rng = GOLDEN.read_bytes(), random.Random(0)
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        refused(file)
    outcomes = []
    for _ in range(400):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        file.write_bytes(changed)
        try:
            tensors = open_checkpoint(file)
        except UserError:
            outcomes.append("refused")
        else:
            outcomes.append("read")
            assert all(tensor.read().shape == tensor.shape for tensor in tensors.values())
    assert set(outcomes) == {"refused", "read"}
