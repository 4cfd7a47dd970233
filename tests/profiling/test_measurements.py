"""Readers of other tools' files: whatever is in them, measurements or one error that says where."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.errors import BrokenFileError, InputError
from shunter.profiling.measurements import llama_bench
from shunter.profiling.measurements.read import read_measurements

CORPUS = Path(__file__).parents[1] / "corpus" / "measurements"
FILES = sorted(path.name for path in CORPUS.iterdir() if path.name not in ("expected.json", "README.md"))


def read_text(path: Path, text: str):
    path.write_text(text, encoding="utf-8", newline="")
    return read_measurements([path])[path]


def sound(reading):
    """Nothing that came out is impossible, and nothing is lost without a word."""
    for m in reading.measurements:
        assert m.operation in ("prefill", "decode")
        assert m.batch >= 1
        assert m.duration_s
        assert all(0 < duration_s < float("inf") for duration_s in m.duration_s)
        assert (m.decode_tokens > 0) == (m.operation == "decode")
    assert all(reading.left_out.values())


def sound_or_told(path, text):
    said = ""
    try:
        sound(read_text(path, text))
    except InputError as error:
        said = str(error)
    assert not said or (path.name in said and "\n" not in said)


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_read_whole(name):
    reading = read_measurements([CORPUS / name])[CORPUS / name]
    sound(reading)
    assert reading.measurements or reading.left_out


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_measurements_or_one_error(tmp_path, name, data):
    text = (CORPUS / name).read_text(encoding="utf-8")
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 30))
    put = data.draw(
        st.text(max_size=8) | st.sampled_from(["-1", "NaN", "1e999", "null", "[]", "{}", '"', "'", "|"])
    )
    damaged = text[:at] + put + text[at + cut :]
    sound_or_told(tmp_path / f"damaged{Path(name).suffix}", damaged)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


def leaves(value, path=()):
    """Every place in a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from leaves(part, (*path, key))


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place_is_a_measurement_or_one_error(tmp_path, name, data):
    whole = json.loads((CORPUS / name).read_text(encoding="utf-8"))
    *path, last = data.draw(st.sampled_from(list(leaves(whole))))
    at = whole
    for key in path:
        at = at[key]
    at[last] = data.draw(VALUES)
    sound_or_told(tmp_path / "changed.json", json.dumps(whole))


@pytest.mark.parametrize(
    ("text", "suffix", "says"),
    [
        ("", ".csv", "it is none of llama-bench"),
        ("a,b\n1,2\n", ".csv", "it is none of llama-bench"),
        ('{"a": 1}', ".json", "it is none of llama-bench"),
        (
            "| PP | TG | B | S_PP t/s |\n|--|--|--|--|\n| 8 | 8 | 1 | 9.5 |\n",
            ".md",
            "it is none of llama-bench",
        ),
        ("[1]", ".json", "something else than objects"),
        ('[{"n_prompt": 1,', ".json", "no JSON, or cut short"),
        ("[" * 100_000, ".json", "no JSON"),
        ("benchmarks: [", ".yaml", "no YAML"),
        ("| model | test | t/s |\n| a | pp512 |\n", ".md", "row 0 has 2 cells, its header 3"),
        ("| model | test | t/s |\n| a | x9 | 1 |\n", ".md", "test must be like pp512"),
        ("n_prompt,n_gen,avg_ns\n512,0\n", ".csv", "row 1 has 2 cells, the first 3"),
        ("INSERT INTO llama_bench (n_prompt, n_gen) VALUES ('1');\n", ".sql", "insertion 0"),
    ],
)
def test_what_is_no_result_is_told_in_a_line(tmp_path, text, suffix, says):
    with pytest.raises((BrokenFileError, InputError), match=says):
        read_text(tmp_path / f"a{suffix}", text)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(InputError, match="exist"):
        read_measurements([tmp_path / "none.json"])
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BrokenFileError, match=r"b\.json"):
        read_measurements([tmp_path / "b.json"])


def record(**values):
    known = json.loads((CORPUS / "llama-bench.json").read_text(encoding="utf-8"))[1]
    return {**known, **values}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"n_prompt": 64}, r"pp\+tg"),
        ({"n_prompt": 64, "n_gen": 0, "n_depth": 9}, "pp @ d"),
        ({"n_gen": 0}, "neither prompt nor generated"),
        ({"embeddings": True}, "embeddings"),
        ({"type_k": "q8_0"}, "a KV cache in q8_0"),
        ({"tensor_buft_overrides": "exps=CPU"}, "tensors placed by name"),
        ({"n_cpu_moe": 3}, "tensors placed by name"),
        ({"fit_target": 512}, "layers fitted to the memory"),
    ],
)
def test_what_is_not_one_operation_is_left_out_with_the_reason(values, why):
    reading = llama_bench.read_llama_bench("f", iter([record(**values)]))
    assert not reading.measurements
    assert next(iter(reading.left_out)) == "f: row 0"
    assert re.search(why, reading.left_out["f: row 0"])


@pytest.mark.parametrize(
    ("values", "gpus"),
    [
        ({"gpu_info": "A, A"}, ("A", "A")),
        ({"gpu_info": "A, B"}, ("A", "B")),
        ({"gpu_info": "A, B", "split_mode": "none", "main_gpu": 1}, ("B",)),
        ({"gpu_info": "A, A, A", "devices": "CUDA0/CUDA2"}, ("A", "A")),
        ({"gpu_info": "A, B", "devices": "CUDA1"}, ()),
        ({"gpu_info": "", "backends": "BLAS"}, ()),
    ],
)
def test_which_gpus_shared_the_layers(values, gpus):
    (m,) = llama_bench.read_llama_bench("f", iter([record(**values)])).measurements
    assert m.gpus == gpus


def test_what_a_table_of_an_early_version_says():
    old = record(cuda=True, n_gpu_layers=20)
    for name in ("backends", "n_depth", "devices", "tensor_buft_overrides", "samples_ns", "samples_ts"):
        del old[name]
    (m,) = llama_bench.read_llama_bench("f", iter([old])).measurements
    assert (m.backend, m.gpu_layers, m.is_mean) == ("CUDA", 20, True)
    assert m.duration_s == (pytest.approx(0.906 / 128),)


LOGS = {
    "ggml_cuda_init: found 1 CUDA devices:\n  Device 0: Tesla V100-SXM2-32GB, compute capability 7.0\n": (
        "Tesla V100-SXM2-32GB",
    ),
    "ggml_vulkan: Found 1 Vulkan devices:\n"
    "ggml_vulkan: 0 = AMD Radeon RX 7900 XTX (RADV NAVI31) (radv) | uma: 0 | fp16: 1\n": (
        "AMD Radeon RX 7900 XTX",
    ),
    "ggml_cuda_init: found 2 ROCm devices:\n  Device 0: A, gfx1100 (0x1100)\n  Device 1: B, gfx1030\n": (
        "A",
        "B",
    ),
    "": (),
}


@pytest.mark.parametrize("log", LOGS)
def test_a_table_s_gpus_are_those_of_the_log_before_it(log, tmp_path):
    table = (
        "\x1b[1m| model | size | params | backend | ngl | test | t/s |\x1b[0m\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "\x1b[32m| llama 8B Q4_0 | 4.33 GiB | 8.03 B | CUDA | 99 | tg128 | 120.00 ± 2.75 |\x1b[0m\n"
    )
    other = "ggml_cuda_init: found 1 CUDA devices:\n  Device 0: NVIDIA L4, compute capability 8.9, VMM: yes\n"
    (m,) = read_text(tmp_path / "t.md", log + table).measurements
    assert m.gpus == LOGS[log]
    first, second = read_text(tmp_path / "t.md", other + table + log + table).measurements
    assert (first.gpus, second.gpus) == (("NVIDIA L4",), LOGS[log] or ("NVIDIA L4",))


@pytest.mark.parametrize(
    ("values", "gpus"),
    [
        ({"gpu_info": "A, B", "tensor_split": "0.00"}, ("A", "B")),
        ({"gpu_info": "A, B", "tensor_split": "0.00/1.00"}, ("B",)),
        ({"gpu_info": "A, A", "tensor_split": "3.00/1.00"}, ("A", "A")),
        ({"gpu_info": "", "tensor_split": "3.00/1.00"}, None),
        ({"gpu_info": "", "tensor_split": "3.00/0.00"}, ()),
    ],
)
def test_a_split_says_which_gpus_take_layers(values, gpus):
    reading = llama_bench.read_llama_bench("f", iter([record(**values)]))
    if gpus is None:
        assert list(reading.left_out.values()) == ["layers split over GPUs (-ts) that the file does not name"]
    else:
        assert [m.gpus for m in reading.measurements] == [gpus]
