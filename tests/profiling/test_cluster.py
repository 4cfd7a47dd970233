import importlib.util
import socket
from collections import Counter
from dataclasses import replace

import pytest

from shunter.catalog.models import ModelSpec
from shunter.errors import InputError
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.profiling.cluster.sweep import NodeError, run_cluster_sweep
from shunter.profiling.cluster.worker import hardware_key
from shunter.profiling.dataset.journal import journal_path
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.plan import SweepSettings
from shunter.profiling.sweep.sweep import plan_models
from shunter.ray_cluster import connect, drive, live_nodes
from tests.ray_nodes import ray_nodes

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is an extra")

SETTINGS = SweepSettings(
    gpu_layers=("0", "all"),
    prompt_tokens=(16,),
    decode_tokens=(8,),
    batch=(1, 2),
    cut_tokens=(32,),
    repeats=3,
)
GROUPS = 2 * 2 * 3
ROWS = GROUPS * ((1 + 1) + (2 + 1) + 5 + 2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("a", "b"):
        spec = ModelSpec(name, 8, 64, 1, 1, 64, 128, 512)
        write_checkpoint(spec, folder / f"{name}.gguf", format="gguf", quantization="F32")
    return [folder / "a.gguf", folder / "b.gguf"]


@pytest.fixture(scope="module")
def nodes():
    with ray_nodes() as started:
        yield started


@pytest.fixture(scope="module")
def other(nodes):
    """The second node of the cluster; the last test kills it."""
    return nodes.add()


@pytest.fixture(scope="module")
def cluster(nodes, other):
    return nodes.cluster


def plan(models, settings=SETTINGS, device="cpu:1-threads"):
    return plan_models(models, engine="fake", device=device, settings=settings)


def assert_complete(out):
    data = read_dataset(out)
    assert data["row_id"].is_unique
    assert data["row_id"].str.partition("/")[2].is_unique
    assert len(data) == ROWS
    assert not journal_path(out).exists()


class Nobody:
    """Stands for an address at which nobody listens."""

    def __enter__(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            return f"ray://127.0.0.1:{server.getsockname()[1]}"

    def __exit__(self, *_):
        pass


def test_without_ray_the_error_says_what_to_install(models, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--ray must have Ray installed: pip install 'shunter\[ray\]'"):
        run_cluster_sweep(plan(models), "auto", tmp_path / "d.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_by_number_is_refused_since_ray_picks_it(models, tmp_path):
    with pytest.raises(InputError, match="be cuda:0 with --ray"):
        run_cluster_sweep(plan(models, device="cuda:1"), "auto", tmp_path / "d.parquet")


def test_gpus_are_of_one_type_if_they_and_the_cpu_are_the_same():
    facts = {"cpu_model": "c", "logical_cores": 8, "ram_gib": 64, "gpus": ["A100, 40960 MiB"]}
    twice = {**facts, "gpus": facts["gpus"] * 2, "ram_gib": 128}
    other = {**facts, "gpus": ["L4, 23034 MiB"]}
    assert hardware_key("cuda", facts) == hardware_key("cuda", twice)
    assert hardware_key("cuda", facts) != hardware_key("cuda", other)
    assert hardware_key("cpu", facts) != hardware_key("cpu", twice)


def test_an_address_without_a_cluster_is_refused_at_once(cluster, models, tmp_path):
    with Nobody() as address, pytest.raises(InputError, match="name a Ray cluster that can be reached"):
        run_cluster_sweep(plan(models), address, tmp_path / "d.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_nodes_lack_is_named_with_the_node(cluster, models, tmp_path):
    made = plan(models[:1])
    gone = tmp_path / "gone.gguf"
    models[0].rename(gone)
    try:
        with pytest.raises(NodeError, match=r"node .* \(.*\): .*a\.gguf") as caught:
            run_cluster_sweep(made, cluster.address, tmp_path / "d.parquet")
    finally:
        gone.rename(models[0])
    assert caught.value.exit_code == 2


def test_a_cluster_without_gpus_is_refused_for_a_gpu(cluster, models, tmp_path):
    with pytest.raises(InputError, match="with a GPU for cuda:0"):
        run_cluster_sweep(plan(models, device="cuda:0"), cluster.address, tmp_path / "d.parquet")


def test_a_plan_of_which_nothing_fits_is_bad_input_as_on_one_machine(cluster, models, tmp_path):
    settings = replace(SETTINGS, gpu_layers=("all",), repeats=1)
    cramped = plan(models[:1], settings, device="cpu:1-threads-1MB")
    with pytest.raises(InputError, match=r"fit the memory at one level at least.*a at 9 layers on "):
        run_cluster_sweep(cramped, cluster.address, tmp_path / "d.parquet")
    assert not (tmp_path / "d.parquet").exists()


def test_tasks_take_turns_and_one_that_waits_sees_what_others_did(cluster):
    done = []

    def work(name, remote):
        for number in range(2):
            done.append((name, (yield remote.remote(number))))

    def wait():
        while len(done) < 4:
            yield None
        done.append("saw them all")

    with connect(cluster.address) as ray:
        assert len(live_nodes(ray)) == 2
        remote = ray.remote(lambda number: number)
        drive(ray, [wait(), work("x", remote), work("y", remote)])
    assert Counter(done) == Counter([("x", 0), ("x", 1), ("y", 0), ("y", 1), "saw them all"])


def test_ctrl_c_keeps_the_rows_and_another_sweep_goes_on(cluster, models, tmp_path):
    out = tmp_path / "d.parquet"

    def interrupt(progress):
        if progress.units_done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cluster_sweep(plan(models), cluster.address, out, progress=interrupt)
    kept = len(read_dataset(out))
    assert kept >= 5 * 2
    result = run_cluster_sweep(plan(models), cluster.address, out, mode="resume")
    assert (result.rows, result.units_skipped) == (ROWS - kept, 5)
    assert_complete(out)


def test_a_node_that_is_killed_in_the_middle_loses_and_doubles_nothing(
    nodes, cluster, other, models, tmp_path
):
    out = tmp_path / "d.parquet"
    head = cluster.head_node
    seen = Counter()

    def kill(progress):
        node = progress.text.rpartition(" on ")[2]
        seen[node] += 1
        if seen[node] == 2 and other.node_id[:6] in node:
            nodes.kill(other)

    result = run_cluster_sweep(plan(models), cluster.address, out, progress=kill)
    assert len(seen) == 2
    assert len(result.lost) == 1
    assert other.node_id[:6] in result.lost[0]
    assert result.rows == sum(result.rows_by_device.values()) == ROWS
    assert {name[-7:-1]: rows > 0 for name, rows in result.rows_by_device.items()} == {
        head.node_id[:6]: True,
        other.node_id[:6]: True,
    }
    assert_complete(out)
    assert read_dataset(out)["session_id"].nunique() == 1
