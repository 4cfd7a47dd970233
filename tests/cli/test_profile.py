import pytest
import typer
from typer.testing import CliRunner

from shunter.catalog.models import ModelSpec
from shunter.cli.main import main
from shunter.cli.profiles import profile as command
from shunter.engines.base import WorkerDiedError
from shunter.engines.fake.engine import FakeEngine, LinearDurations
from shunter.errors import BrokenFileError, InputError, UnknownNameError
from shunter.profiling import profile as library
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.profiling.dataset.table import read_dataset

GRID = ["--engine", "fake", "--device", "cpu:1-threads", "--prompt", "8", "--decode", "4", "--batch", "1,2"]
GRID += ["--cuts", "8", "--repeats", "2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    spec = ModelSpec("tiny", 2, 64, 1, 1, 64, 128, 512)
    write_checkpoint(spec, path, format="gguf", quantization="F32")
    return str(path)


class Virtual(FakeEngine):
    """Stands where the worker would: the same engine on a virtual clock, in this process."""

    interrupt_at = None

    def __init__(self):
        super().__init__(device="cpu:1-threads", total_layers=3)
        self.calls = 0

    def prefill(self, *args):
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        return super().prefill(*args)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(library, "start_engine", lambda engine, device, python: Virtual())
    app = typer.Typer()
    app.command()(command.profile)

    def invoke(*args):
        result = CliRunner().invoke(app, [str(a) for a in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def test_the_plan_comes_first_and_the_dataset_is_written(run, checkpoint, tmp_path):
    out = tmp_path / "d.parquet"
    result = run("--model", checkpoint, "--out", out, *GRID, "--gpu-layers", "0,all")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert "fake on cpu:1-threads: about" in result.output
    assert lines[-1].startswith(f"{out}: 48 rows from 16 units in")
    assert len(read_dataset(out)) == 48


def test_a_dry_run_starts_nothing_and_writes_nothing(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "start_engine", lambda *a, **k: pytest.fail("started"))
    result = run("--model", checkpoint, "--out", tmp_path / "d.parquet", *GRID, "--dry-run")
    assert result.exit_code == 0
    assert "tiny" in result.output
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_keeps_the_rows_says_how_to_go_on_and_ends_with_130(run, checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "d.parquet"
    monkeypatch.setattr(Virtual, "interrupt_at", 7)
    result = run("--model", checkpoint, "--out", out, *GRID)
    assert result.exit_code == 130
    assert "--resume goes on from there" in result.output
    kept = len(read_dataset(out))
    assert 0 < kept < 24
    monkeypatch.setattr(Virtual, "interrupt_at", None)
    result = run("--model", checkpoint, "--out", out, *GRID, "--resume")
    assert result.exit_code == 0
    assert f"{24 - kept} rows from" in result.output
    assert len(read_dataset(out)) == 24


def test_an_existing_dataset_is_not_written_over(run, checkpoint, tmp_path):
    out = tmp_path / "d.parquet"
    out.write_bytes(b"precious")
    with pytest.raises(InputError, match="--out must not exist yet"):
        run("--model", checkpoint, "--out", out, *GRID)
    with pytest.raises(BrokenFileError, match="cannot be read"):
        run("--model", checkpoint, "--out", out, *GRID, "--resume")
    assert out.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", "8,x"], "--prompt must be whole numbers with commas between"),
        (["--batch", "0"], "--batch must be numbers of at least 1"),
        (["--device", "tpu"], "--device: unknown name 'tpu'"),
        (["--engine", "lama-cpp"], "did you mean llama-cpp"),
        (["--engine", "transformers"], "must be safetensors for the engine transformers. Got 'gguf'"),
        (["--gpu-layers", "4"], "a count from 0 to 3"),
        (["--page-cache", "icy"], "--page-cache must be warm, cold or both"),
        (["--resume", "--append"], "--append must not be given with --resume"),
        (["--model", "/nowhere.gguf"], "--model must"),
        (["--budget", "soon"], "--budget must be a time, like 90s, 10m or 1h"),
        (["--budget", "0m"], "--budget must be a time"),
        (["--precision", "-1%"], "--precision must be a share above 0, like 10%, or none"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, checkpoint, tmp_path, args, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        run("--model", checkpoint, "--out", tmp_path / "d.parquet", *GRID, *args)
    assert list(tmp_path.iterdir()) == []


def test_no_model_is_an_error(run, tmp_path):
    with pytest.raises(InputError, match="--model must be given once or more"):
        run("--out", tmp_path / "d.parquet", *GRID)


def test_a_budget_says_what_is_expected_and_repeats_while_there_is_time(run, checkpoint, tmp_path):
    out = tmp_path / "d.parquet"
    wide = [*GRID[:4], "--prompt", "8,16,32,64,128,256", "--decode", "4,8", "--cuts", "8,16"]
    dry = run("--model", checkpoint, "--out", out, *wide, "--budget", "0.2s", "--dry-run")
    assert "expected within 0 s" in dry.output
    assert "configurations of the grid" in dry.output
    result = run("--model", checkpoint, "--out", out, *wide, "--budget", "60s", "--precision", "none")
    assert result.output.splitlines()[-1].startswith(f"{out}: ")
    assert set(read_dataset(out)["repeat"]) == set(range(6))  # on a virtual clock there is time for all


def test_a_budget_without_a_grid_picks_from_a_richer_one(run, checkpoint, tmp_path):
    args = ["--model", checkpoint, "--out", tmp_path / "d.parquet", *GRID[:4], "--budget", "1h"]
    run(*args, "--repeats", "1", "--max-repeats", "1", "--precision", "none")
    data = read_dataset(tmp_path / "d.parquet")
    assert set(data.loc[data["operation"] == "decode", "batch"]) == {1, 2, 4, 8}
    assert set(data["page_cache"]) == {"warm", "cold"}


def test_the_end_says_how_well_the_medians_are_known(run, checkpoint, tmp_path):
    result = run("--model", checkpoint, "--out", tmp_path / "d.parquet", *GRID)
    cells = read_dataset(tmp_path / "d.parquet")["cell_id"].nunique()
    assert f"median known within 20% (95 % interval): {cells} of {cells} configurations" in result.output


def test_a_worker_that_is_gone_is_an_error_that_says_how_to_go_on(checkpoint, tmp_path, monkeypatch):
    class Vanishing(Virtual):
        def decode(self, *args, **kwargs):
            self.calls += 1
            if self.calls > 12:
                raise WorkerDiedError("the fake worker was killed by SIGKILL in the call decode")
            return super().decode(*args, **kwargs)

    out = tmp_path / "d.parquet"
    app = typer.Typer()
    app.command()(command.profile)
    monkeypatch.setattr(library, "start_engine", lambda engine, device, python: Vanishing())
    result = CliRunner().invoke(app, ["--model", checkpoint, "--out", str(out), *GRID])
    assert isinstance(result.exception, WorkerDiedError)
    assert f"Rows measured until then are in {out}; --resume goes on from there." in result.output
    assert len(read_dataset(out)) > 0


@pytest.mark.engine
def test_a_worker_process_is_profiled_like_any_engine(checkpoint, tmp_path):
    app = typer.Typer()
    app.command()(command.profile)
    out = tmp_path / "d.parquet"
    grid = [*GRID[:-1], "1"]
    with pytest.raises(UnknownNameError, match="fake"):
        CliRunner().invoke(app, ["--engine", "fakes", "--model", checkpoint], catch_exceptions=False)
    result = CliRunner().invoke(
        app, ["--model", checkpoint, "--out", str(out), *grid], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert (read_dataset(out)["duration_s"] >= 0).all()


@pytest.mark.parametrize(
    ("name", "like", "size", "layers"),
    [("deep.gguf", "Llama-3-8B", "5.3125MB", 20), ("flat", "Qwen2.5-0.5B", "6MB", 3)],
)
def test_the_fake_profiles_what_the_command_made_of_any_depth(tmp_path, name, like, size, layers):
    """The real commands, with the fake in a worker process."""
    made, out = str(tmp_path / name), str(tmp_path / "d.parquet")
    grid = ["--prompt", "8", "--decode", "4", "--batch", "1", "--cuts", "8", "--gpu-layers", "0,all"]
    grid += ["--repeats", "1", "--max-repeats", "1", "--precision", "none"]
    for arguments in (
        ["checkpoint", made, "--like", like, "--size", size],
        ["profile", "--engine", "fake", "--model", made, "--out", out, *grid],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    rows = read_dataset(out)
    assert set(rows["total_layers"]) == {layers + 1}
    step_s = rows[rows["operation"] == "decode"].set_index("gpu_layers")["duration_s"]
    costs = LinearDurations(total_layers=layers + 1)
    for level in (0, layers + 1):
        # It sleeps so long, and a busy machine wakes it late.
        expected_s = costs.decode_step_s(name, level, 1, 11)
        assert 0.9 * expected_s <= step_s[level] < 20 * expected_s


def test_models_are_called_as_they_are_named(run, checkpoint, tmp_path):
    out = tmp_path / "p.parquet"
    run("--model", checkpoint, "--name", "mine", "--out", out, *GRID)
    assert set(read_dataset(out)["model"]) == {"mine"}


@pytest.mark.parametrize("names", [["a", "b"], [" "]])
def test_names_that_do_not_fit_the_models_are_refused(run, checkpoint, tmp_path, names):
    asked = [word for name in names for word in ("--name", name)]
    with pytest.raises(InputError, match=r"^--name must be given once for each --model, 1 times, and not be"):
        run("--model", checkpoint, *asked, "--out", tmp_path / "p.parquet", *GRID)
    assert not list(tmp_path.iterdir())
