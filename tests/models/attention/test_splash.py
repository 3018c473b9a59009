"""The splash kernel's mask, and that it compiles for TPUs. What it computes is tested in `test_attention_joined`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.attention.packed import Joined
from rlhf_jax.models.attention.splash import JoinedMask, splash
from rlhf_jax.parallel import sharding


def test_the_mask_holds_the_prompt_and_each_response_up_to_itself():
    """Against a loop, whole and by tiles. Rows after the last response see themselves too."""
    mask = JoinedMask(queries=8, prompt=4, response=3)
    expected = np.zeros((8, 12), bool)
    expected[:, :4] = True
    for query in range(8):
        for key in range(query + 1):
            expected[query, 4 + key] = query // 3 == key // 3
    np.testing.assert_array_equal(mask[:, :], expected)
    np.testing.assert_array_equal(mask[2:6, 4:8], expected[2:6, 4:8])
    assert mask.shape == (8, 12)
    assert hash(mask) == hash(JoinedMask(8, 4, 3))
    assert mask != JoinedMask(8, 4, 4)


@pytest.mark.parametrize(("dtype", "width"), [("bfloat16", 128), ("bfloat16", 80), ("float32", 64)])
def test_it_compiles_for_a_tpu_with_its_gradient(dtype, width):
    """Ahead of time, without a TPU: one kernel forward, one for the queries' gradient, one for the keys'."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    device = topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu").devices[0]
    shapes = (2, 4, 256, width), (2, 2, 384, width), (2, 2, 384, width)
    on_device = jax.sharding.SingleDeviceSharding(device)
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=on_device) for shape in shapes]
    real = jax.ShapeDtypeStruct((2, 384), bool, sharding=on_device)

    def gradients(queries, keys, values, real):
        def total(queries, keys, values):
            return splash(Joined(queries, keys, values, real, prompt=128, response=49)).astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1, 2))(queries, keys, values)

    program = jax.jit(gradients).lower(*arguments, real).compile().as_text()
    assert program.count('custom_call_target="tpu_custom_call"') == 3


def test_it_compiles_for_a_mesh_of_tpus():
    """Four chips share the prompts and the heads. Nothing is sent between them."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu").devices
    with sharding.arrange(sharding.Mesh(data=2, fsdp=1, tensor=2), devices) as mesh:
        heads, rows = (
            jax.sharding.NamedSharding(mesh, sharding.spec(axes)) for axes in (("batch", "kv_heads"), ("batch",))
        )
        shapes = (2, 4, 256, 128), (2, 2, 384, 128), (2, 2, 384, 128)
        arguments = [jax.ShapeDtypeStruct(shape, "bfloat16", sharding=heads) for shape in shapes]
        real = jax.ShapeDtypeStruct((2, 384), bool, sharding=rows)

        def attend(queries, keys, values, real):
            return splash(Joined(queries, keys, values, real, prompt=128, response=49))

        program = jax.jit(attend).lower(*arguments, real).compile().as_text()
    assert program.count('custom_call_target="tpu_custom_call"') == 1
    assert not any(name in program for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
