"""``shunter dataset import``: files of other tools in, rows out, and predictions from them."""

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from shunter.cli.main import main
from shunter.errors import InputError
from shunter.models import PerformanceModel
from shunter.profiling.dataset.schema import COLUMNS
from shunter.profiling.dataset.table import read_dataset
from shunter.serve.servers.llama_binary import find_binary

CORPUS = Path(__file__).parents[1] / "corpus" / "measurements"
EXPECTED = json.loads((CORPUS / "expected.json").read_text())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    assert caught.value.code == code, out.err
    if code:
        assert out.err.startswith("shunter: ")
        assert out.err.count("\n") == 1
    return out.err if code else out.out


def options(case):
    return [word for name, value in case["options"].items() for word in (f"--{name}", value)]


def files(case):
    return [CORPUS / name for name in case["files"]]


@pytest.mark.parametrize("case", EXPECTED["imported"], ids=lambda case: case["files"][0])
def test_what_comes_out_of_each_format(capsys, case):
    out = run(capsys, "dataset", "import", *files(case), *options(case), "--out", "d.parquet", "--verbose")
    data = read_dataset("d.parquet")
    want = [{**row, "duration_s": s} for row in case["rows"] for s in row["duration_s"]]
    assert len(data) == len(want)
    for (_, got), expected in zip(data.iterrows(), want, strict=True):
        for name, value in expected.items():
            # Tables in Markdown round.
            assert got[name] == (pytest.approx(value, rel=1e-3) if name == "duration_s" else value), name
    for why in case["left_out"]:
        assert why in out
    assert data["device_bytes"].isna().all()
    assert data["load_average"].isna().all()
    assert data["source"].str.len().gt(0).all()
    assert data["row_id"].is_unique


@pytest.mark.parametrize(
    "case", EXPECTED["refused"], ids=lambda case: " ".join([*case["files"], *case["options"]])
)
def test_what_cannot_be_told_is_refused_and_nothing_is_written(capsys, folder, case):
    error = run(capsys, "dataset", "import", *files(case), *options(case), "--out", "d.parquet", code=2)
    assert case["says"] in error
    assert not list(folder.iterdir())


def test_importing_again_adds_nothing_and_wherever_the_file_lies(capsys, folder):
    run(capsys, "dataset", "import", CORPUS / "llama-bench.json", "--out", "d.parquet")
    before = read_dataset("d.parquet")
    copy = folder / "copy.json"
    copy.write_bytes((CORPUS / "llama-bench.json").read_bytes())
    assert f"0 rows added, {len(before)} were there already" in run(
        capsys, "dataset", "import", copy, "--out", "d.parquet"
    )
    run(capsys, "dataset", "import", CORPUS / "vllm-serve.json", "--device", "RTX 4090", "--engine", "vllm",
        "--quantization", "BF16", "--out", "d.parquet")  # fmt: skip
    after = read_dataset("d.parquet")
    assert len(after) == len(before) + 2
    pd.testing.assert_frame_equal(after.head(len(before)), before)


def test_a_quantisation_that_the_models_name_says_is_not_overridden(capsys, folder):
    error = run(
        *(
            capsys,
            "dataset",
            "import",
            CORPUS / "vllm-serve.json",
            "--device",
            "RTX 4090",
            "--engine",
            "vllm",
        ),
        *("--model", "Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "--quantization", "BF16", "--out", "d.parquet"),
        code=2,
    )
    assert "quantization must be one of F32" in error
    assert "Got 'AWQ'" in error
    assert not list(folder.iterdir())


def test_a_size_that_no_file_of_its_quantisation_has_is_refused(capsys, folder):
    records = json.loads((CORPUS / "llama-bench.json").read_text(encoding="utf-8"))
    Path("small.json").write_text(json.dumps([{**records[0], "model_size": 1_637_632_768}]))
    error = run(capsys, "dataset", "import", "small.json", "--out", "d.parquet", code=2)
    assert "model size must be about the 4912898048 bytes of Llama-3-8B in Q4_K_M. Got '1637632768'" in error


def test_a_served_model_in_mxfp4_is_of_the_catalogues_size(capsys, folder):
    run(
        *(
            capsys,
            "dataset",
            "import",
            CORPUS / "vllm-serve.json",
            "--device",
            "H100 SXM",
            "--engine",
            "vllm",
        ),
        *("--model", "openai/gpt-oss-20b", "--quantization", "MXFP4", "--out", "d.parquet"),
    )
    assert set(read_dataset("d.parquet")["model"]) == {"gpt-oss-20b MXFP4"}


def test_a_bad_file_among_good_ones_leaves_the_dataset_as_it_was(capsys, folder):
    run(capsys, "dataset", "import", CORPUS / "llama-bench.json", "--out", "d.parquet")
    before = Path("d.parquet").read_bytes()
    (folder / "bad.json").write_text('[{"n_prompt": "x", "n_gen": 0}]')
    error = run(
        capsys, "dataset", "import", CORPUS / "llama-bench.csv", "bad.json", "--out", "d.parquet", code=2
    )
    assert "bad.json: row 0, n_prompt must be a number" in error
    assert Path("d.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "d.txt"], "--out must end in .parquet or .csv"),
        (["--engine", "vlm"], "did you mean vllm"),
        (["--host-bandwidth", "0"], "--host-bandwidth must be 0.1 to 100000 GB/s"),
        (["--batch", "8"], "must be given together"),
        (["--model", "a="], "be a model, or 'NAME IN THE FILE=MODEL'"),
        (["--model", "Llama-3-8B", "--model", "Qwen3-8B"], "be given once"),
        (["--model", "nobody"], "be a model of the catalogue"),
        (["--device", "cpu:4-threads"], "--device must be what the file says"),
        (["--engine", "vllm"], "--engine must be what the file says, llama-cpp"),
    ],
)
def test_options_that_do_not_fit_are_told(capsys, folder, arguments, says):
    assert says in run(capsys, "dataset", "import", CORPUS / "llama-bench.json", *arguments, code=2)
    assert not list(folder.iterdir())


def test_a_table_becomes_predictions_and_an_offload_curve(capsys):
    run(
        capsys, "dataset", "import", CORPUS / "llama-bench.json", "--host-bandwidth", 60, "--out", "d.parquet"
    )
    fitted = run(capsys, "fit", "d.parquet", "--performance", "published", "--out", "perf")
    line = next(line for line in fitted.splitlines() if line.startswith("decode_step_s on RTX 4090"))
    before, after = (float(figure) for figure in re.findall(r"([\d.]+) %", line))
    assert after < before
    rows = [{"engine": "llama-cpp", "device": "RTX 4090", "model": "Llama-3-8B Q4_K_M", "operation": "decode",
             "context_tokens": 64.5, "gpu_layers": layers} for layers in (0, 8, 16, 24, 33)]  # fmt: skip
    pd.DataFrame(rows).to_csv("asked.csv", index=False)
    run(capsys, "predict", "asked.csv", "--performance", "perf", "--out", "p.csv")
    steps_s = pd.read_csv("p.csv")["duration_s_predicted"]
    assert steps_s.is_monotonic_decreasing
    measured = read_dataset("d.parquet").query("operation == 'decode' and gpu_layers == 16")["duration_s"]
    assert steps_s[2] == pytest.approx(measured.median(), rel=0.15)
    again = PerformanceModel.load("perf").predict(read_dataset("d.parquet").query("operation == 'decode'"))
    assert (again["duration_s_predicted"] > 0).all()
    assert "-92" in run(capsys, "profile", "offload", "d.parquet", "--out", "offload")


def test_columns_that_others_do_not_say_can_be_missing():
    nullable = {column.name for column in COLUMNS if column.nullable}
    assert {"load_average", "device_bytes", "host_bytes", "host_bandwidth_bytes_per_s"} <= nullable


def test_llama_bench_itself(capsys, folder):
    """A run of the real tool in each of its formats says the same, and its header gives the model's shape."""
    try:
        binary = Path(find_binary()).with_name("llama-bench")
    except InputError as error:
        pytest.skip(str(error))
    if not binary.exists():
        pytest.skip("llama-server was built without llama-bench")
    run(capsys, "checkpoint", "m.gguf", "--like", "Qwen3-8B", "--size", "2MB")
    for name in ("json", "jsonl", "csv", "sql", "md"):
        command = [
            str(binary),
            "-m",
            "m.gguf",
            "-p",
            "16",
            "-n",
            "8",
            "-pg",
            "16,8",
            "-r",
            "2",
            "-t",
            "1",
            "-o",
            name,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        Path(f"r.{name}").write_text(done.stdout)
        model = ("--model", "m.gguf") if name == "md" else ()
        out = run(capsys, "dataset", "import", f"r.{name}", *model, "--out", f"{name}.parquet")
        assert "prompt and generated tokens in one time" in out
        data = read_dataset(f"{name}.parquet")
        assert data["operation"].tolist() == (
            ["prefill"] * 2 + ["decode"] * 2 if "json" in name else ["prefill", "decode"]
        )
        assert set(data["device"]) == {"cpu:1-threads"}
        assert set(data["model"]) == {"m"}
        assert (data["gpu_layers"] == data["total_layers"]).all()
        assert data["engine_version"].str.startswith("llama.cpp ").all()


def test_a_table_that_rounds_sizes_is_of_the_checkpoint_that_is_there(capsys, folder):
    """Sizes that no catalogue knows: exact in JSON, rounded in Markdown, one model all the same."""
    for name in ("llama-bench.json", "llama-bench.md"):
        text = (
            (CORPUS / name)
            .read_text()
            .replace("Q4_K - Medium", "Q4_K - Small")
            .replace("-Q4_K_M.gguf", "-Q4_K_S.gguf")
        )
        (folder / name).write_text(text.replace("4912898304", "4692669000").replace("4.58 GiB", "4.37 GiB"))
        run(capsys, "dataset", "import", name, "--device", "RTX 4090", "--out", "d.parquet")
    data = read_dataset("d.parquet")
    assert set(data["model"]) == {"Llama-3-8B Q4_K_S"}
    assert set(data["weight_bytes"]) == {4692669000}
    assert data["session_id"].nunique() == 2


def test_models_that_nobody_knows_are_left_out_and_the_others_are_not(capsys, folder):
    text = (CORPUS / "llama-bench.md").read_text()
    moe = "| mamba 2.8B Q4_K - Medium | 1.63 GiB | 2.77 B | CUDA | 99 | tg128 | 170.25 ± 1.20 |"
    (folder / "t.md").write_text(text.replace("\n\nbuild", f"\n{moe}\n\nbuild"))
    out = run(capsys, "dataset", "import", "t.md", "--device", "RTX 4090", "--out", "d.parquet", "--verbose")
    assert "left out: t.md: row 7: model must be a model of the catalogue" in out
    assert set(read_dataset("d.parquet")["model"]) == {"Llama-3-8B Q4_K_M"}


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cpu:2-threads", "--device must have the 1 threads of the file"),
        ("RTX 4090", "--device must be a CPU, which the file says"),
        ("cpu:x", "--device must have the form"),
    ],
)
def test_a_device_that_is_not_the_files_is_told(capsys, device, says):
    run(capsys, "checkpoint", "m.gguf", "--like", "Qwen3-8B", "--size", "2MB")
    bench = CORPUS / "llama-bench-cpu.json"
    error = run(capsys, "dataset", "import", bench, "--model", "m.gguf", "--device", device, code=2)
    assert says in error


def test_a_gpu_without_data_sheet_is_fitted_by_itself(capsys, folder):
    text = (
        (CORPUS / "llama-bench.json").read_text().replace("NVIDIA GeForce RTX 4090", "AMD Radeon RX 7900 XTX")
    )
    (folder / "r.json").write_text(text.replace('"CUDA"', '"Vulkan"'))
    run(capsys, "dataset", "import", "r.json", "--out", "d.parquet")
    device = "RX 7900 XTX (Vulkan)"
    assert set(read_dataset("d.parquet")["device"]) == {device}
    run(capsys, "fit", "d.parquet", "--quick", "--out", "perf")
    rows = [{"engine": "llama-cpp", "device": device, "model": "Llama-3-8B Q4_K_M", "operation": "decode",
             "context_tokens": 64.5, "gpu_layers": 16}]  # fmt: skip
    pd.DataFrame(rows).to_csv("asked.csv", index=False)
    run(capsys, "predict", "asked.csv", "--performance", "perf", "--out", "p.csv")
    assert pd.read_csv("p.csv")["duration_s_predicted"][0] == pytest.approx(0.0462, rel=0.25)


@pytest.mark.parametrize(
    ("size", "params", "model"),
    [("3.56", "6.74", "Llama-2-7B Q4_0"), ("3.83", "7.25", "Mistral-7B-v0.3 Q4_0"), ("3.83", "7.40", "")],
)
def test_what_llama_bench_calls_llama_7b_is_told_by_its_size(capsys, size, params, model):
    Path("t.md").write_text(
        "| model | size | params | backend | ngl | test | t/s |\n"
        f"| llama 7B Q4_0 | {size} GiB | {params} B | CUDA | 99 | tg128 | 120.00 ± 2.75 |\n"
    )
    said = run(
        capsys, "dataset", "import", "t.md", "--device", "L4", "--out", "d.csv", code=0 if model else 2
    )
    if model:
        assert read_dataset("d.csv")["model"].tolist() == [model]
    else:
        assert "told by --model" in said


def test_a_table_that_names_no_gpu_asks_for_it(capsys):
    table = (CORPUS / "llama-bench.md").read_text()
    Path("t.md").write_text(table[table.index("|") :])
    said = run(capsys, "dataset", "import", "t.md", "--out", "d.csv", code=2)
    assert "device must be said by the file or by --device" in said
