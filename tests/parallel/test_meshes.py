"""Every stage on a mesh of CPU devices does what it does on one device."""

import pytest

from tests.devices import TRAINED, assert_same, study, with_devices

NETWORKS = (*TRAINED, "sample_pairs.sampling", "best_of_n.sampling")
SCANNED = tuple(f"--config.stages.{stage}.blocks.scan=True" for stage in NETWORKS)
OTHER_RULES = tuple(
    f"--config.stages.{stage}.mesh.rules.{rule}"
    for stage in NETWORKS
    for rule in ("embed=('data', 'fsdp')", "vocab=()", "kv_heads=()")
)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("mesh", "devices", "hosts", "arguments"),
    [
        ("2,2,2", 8, 2, SCANNED),
        ("2,2,2", 8, 1, ()),
        ("2,2,2", 8, 2, ()),
        ("8,1,1", 8, 1, ()),
        ("1,8,1", 8, 1, SCANNED),
        ("1,1,4", 4, 1, ()),
        ("1,1,1", 1, 1, SCANNED),
        ("2,2,2", 8, 1, OTHER_RULES),
    ],
)
def test_a_mesh_computes_what_one_device_does(whole, tmp_path, mesh, devices, hosts, arguments):
    """Every stage that runs a network, and between them those that run on the main process alone. Scanned, too, on
    which the blocks are held and run in another form.
    """
    assert_same(study(tmp_path / whole.name, mesh, *arguments, devices=devices, hosts=hosts), whole)


@pytest.mark.soak
def test_a_run_resumes_on_another_mesh(whole, tmp_path):
    """Checkpoints hold whole arrays, each block separately: PPO's last step is made on
    other devices than its first two, and scanned.
    """
    folder = study(tmp_path / whole.name, "2,2,2", "--config.stages.ppo.num_rollouts=2")
    assert_same(study(folder, "8,1,1", *SCANNED), whole)


def test_what_eight_devices_compute():
    """The tests of `eight_devices.py`, in a process that has them."""
    ran = with_devices(8, "-m", "pytest", "-p", "no:cacheprovider", "tests/parallel/eight_devices.py")
    assert ran.returncode == 0, ran.stdout
