import pytest
import typer
from typer.testing import CliRunner

from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.models import catalog_models
from shunter.cli.profiles.checkpoint import checkpoint, parse_size_bytes
from shunter.errors import InputError, UnknownNameError

app = typer.Typer()
app.command()(checkpoint)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


def test_writes_gguf_by_the_name_and_says_what(tmp_path):
    out = tmp_path / "small.gguf"
    result = run(out, "--like", "Qwen3-8B", "--size", "10MB")
    assert result.exit_code == 0, result.output
    found = read_checkpoint(out)
    assert (found.format, found.quantization, found.spec.architecture) == ("gguf", "Q8_0", "qwen3")
    assert found.weight_bytes == pytest.approx(10e6, rel=0.1)
    size, params = found.weight_bytes / 1e6, found.spec.params / 1e6
    assert result.output.splitlines() == [
        f"{out}: {size:.1f} MB of Q8_0 weights (gguf), {params:.1f} M parameters, "
        f"{found.spec.total_layers} layers with the output layer",
    ]


def test_what_is_taken_is_refused_before_anything_is_said(tmp_path):
    out = tmp_path / "small.gguf"
    out.write_bytes(b"mine")
    result = run(out, "--like", "Qwen3-8B", "--size", "10MB")
    assert isinstance(result.exception, InputError)
    assert (result.output, out.read_bytes()) == ("", b"mine")


def test_writes_a_folder_otherwise(tmp_path):
    out = tmp_path / "small-hf"
    result = run(out, "--like", "Llama-3-8B", "--size", "0.02GB", "--quantization", "F16")
    assert result.exit_code == 0, result.output
    found = read_checkpoint(out)
    assert (found.format, found.quantization) == ("safetensors", "F16")
    assert found.weight_bytes == pytest.approx(20e6, rel=0.1)


def test_format_overrides_the_name(tmp_path):
    assert run(tmp_path / "m", "--like", "Qwen3-8B", "--size", "10MB", "--format", "gguf").exit_code == 0
    assert read_checkpoint(tmp_path / "m").format == "gguf"


def test_seed_and_overwrite(tmp_path):
    arguments = [tmp_path / "m.gguf", "--like", "Qwen3-8B", "--size", "10MB"]
    run(*arguments)
    first = (tmp_path / "m.gguf").read_bytes()
    assert isinstance(run(*arguments, "--seed", 1).exception, InputError)
    assert (tmp_path / "m.gguf").read_bytes() == first
    assert run(*arguments, "--seed", 1, "--overwrite").exit_code == 0
    assert (tmp_path / "m.gguf").read_bytes() != first


def test_lists_the_catalogue():
    result = run("--list")
    assert result.exit_code == 0
    assert all(name in result.output for name in catalog_models())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], InputError, "OUT must name the file or folder to write. Nothing was given."),
        (
            ["m.gguf"],
            InputError,
            "--like must name a model of the catalogue (shunter checkpoint --list). Nothing was given.",
        ),
        (
            ["m.gguf", "--like", "Qwen3-9B"],
            UnknownNameError,
            "--like: unknown name 'Qwen3-9B'; did you mean Qwen3-8B",
        ),
        (
            ["m.gguf", "--like", "Qwen3-8B", "--size", "big"],
            InputError,
            "--size must be a number of MB or GB above zero, like 240MB. Got 'big' instead.",
        ),
        (
            ["m.gguf", "--like", "Qwen3-0.6B", "--size", "5GB"],
            InputError,
            "size must be at most that of Qwen3-0.6B itself (596 M parameters). Got '4705.9 M parameters'",
        ),
        (
            ["m", "--like", "Qwen3-8B", "--quantization", "Q8_0"],
            UnknownNameError,
            "quantization (safetensors): unknown name 'Q8_0'; be one of BF16, F16, F32",
        ),
        (
            ["m", "--like", "Qwen3-8B", "--format", "onnx"],
            UnknownNameError,
            "format: unknown name 'onnx'; be one of",
        ),
    ],
)
def test_bad_input_is_one_clear_line_and_writes_nothing(tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert type(result.exception) is error
    assert str(result.exception).startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "size_bytes"), [("240MB", 240e6), ("1.5GB", 1.5e9), ("60 MB", 60e6)])
def test_reads_sizes(text, size_bytes):
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "240", "240mb", "-1MB", "0MB", "1e3MB", "240MB\n"])
def test_refuses_other_sizes(text):
    with pytest.raises(InputError, match="--size must be a number of MB or GB above zero"):
        parse_size_bytes(text)
