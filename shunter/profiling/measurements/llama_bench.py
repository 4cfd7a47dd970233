"""Results of llama-bench: CSV, JSON, JSON lines, SQL, and the Markdown that people paste.

Each record is a test: a prompt (``pp``), generated tokens (``tg``), or both in one time, at a depth of tokens
that the cache held before. JSON has every repeat; the others have means, and Markdown leaves out columns that
are the default, the GPU's name, the time and the exact size too.

Source: llama.cpp, tools/llama-bench: field names, defaults of what Markdown leaves out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from shunter.errors import BrokenFileError, InputError
from shunter.profiling.measurements.measurement import Fields, Measurement, ModelSaid, Reading, split_names

_DISPLAYED = {
    "ngl": "n_gpu_layers",
    "threads": "n_threads",
    "sm": "split_mode",
    "nkvo": "no_kv_offload",
    "fa": "flash_attn",
    "embd": "embeddings",
    "nopo": "no_op_offload",
    "noh": "no_host",
    "rpk": "repack",
    "lm": "load_mode",
    "mmap": "use_mmap",
    "dev": "devices",
    "ts": "tensor_split",
    "ot": "tensor_buft_overrides",
    "fitt": "fit_target",
    "fitc": "fit_min_ctx",
    "backend": "backends",
    "model": "model_type",
}
"""Short column names of Markdown."""

_SETTINGS = {
    "n_batch": "2048",
    "n_ubatch": "512",
    "split_mode": "layer",
    "flash_attn": "-1",
    "use_mmap": "",
    "load_mode": "auto",
    "cpu_mask": "0x0",
    "no_op_offload": "0",
    "no_host": "0",
    "repack": "1",
}
"""What else durations depend on, with the default; without one, any value is told."""

_BACKENDS = ("cuda", "vulkan", "kompute", "metal", "sycl", "gpu_blas")
"""Flags of versions before there was a list of backends."""

_TEST = re.compile(r"(?:pp\s?(\d+))?\s?\+?\s?(?:tg\s?(\d+))?(?:\s?@\s?d\s?(\d+))?")
_FOUND = re.compile(r"\bfound \d+ \w+ devices", re.I)
_LOGGED = re.compile(
    r"(?:ggml_vulkan: \d+ =|\s*Device \d+:) ([^|,]+?)(?: \([^()]*\))* ?[|,] ?(?:compute|gfx|uma|fp16)"
)
"""A GPU as CUDA, ROCm and Vulkan log it before a table, and the line before the first of them."""

_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "M": 1e6, "": 1}
_DESCRIPTION = re.compile(r"(\S+)\s+(?:\S*\?B|[\d.x]+[MBT]\S*)\s+(?:mostly\s+|all\s+)?(.+)", re.I)
_BITS = re.compile(r"\s+-\s+[\d.]+\s*bpw|\s*\(guessed\)", re.I)


def csv_records(text: str, path: str) -> Iterator[Mapping[str, Any]]:
    """Records of ``-o csv``.

    Raises:
        BrokenFileError: A row has more or fewer cells than the header.
    """
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise BrokenFileError(path, str(error)) from error
    for number, line in enumerate(lines[1:], 1):
        if line == lines[0] or not line:
            continue  # files that were put together
        if len(line) != len(lines[0]):
            raise BrokenFileError(path, f"row {number} has {len(line)} cells, the first {len(lines[0])}")
        yield dict(zip(lines[0], line, strict=True))


def sql_records(text: str, path: str) -> Iterator[Mapping[str, Any]]:
    """Records of ``-o sql``; llama-bench puts every value between quotes, and escapes none.

    Raises:
        BrokenFileError: An insertion does not have a value for every column.
    """
    pattern = r"INSERT INTO llama_bench \(([^)]*)\)\s*VALUES \((.*)\);\s*$"
    for number, line in enumerate(line for line in text.splitlines() if "INSERT INTO" in line):
        found = re.search(pattern, line)
        names = [name.strip() for name in found[1].split(",")] if found else []
        values = re.split(r"',\s*'", found[2].strip()[1:-1]) if found else []
        if not found or len(names) != len(values):
            raise BrokenFileError(path, f"insertion {number} is not one of llama-bench's")
        yield dict(zip(names, values, strict=True))


def markdown_records(text: str, path: str) -> Iterator[Mapping[str, Any]]:
    """Rows of the tables in a text, with the build that a line after them names and the GPUs of a log before.

    Raises:
        BrokenFileError: A row has more or fewer cells than its header.
    """
    build = re.search(r"^build: (\S+) \((\d+)\)", text, re.M)
    built = {"build_commit": build[1], "build_number": build[2]} if build else {}
    header: list[str] = []
    number = -1
    gpus: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if not line.startswith("|"):
            found = _LOGGED.match(line)
            gpus = [] if _FOUND.search(line) else [*gpus, found[1]] if found else gpus
            continue
        cells = _cells(line)
        if is_header(line):
            header = cells
            continue
        if not header or set("".join(cells)) <= set("-: "):
            continue
        number += 1
        if len(cells) != len(header):
            raise BrokenFileError(path, f"row {number} has {len(cells)} cells, its header {len(header)}")
        said = _from_markdown(f"{path}: row {number}", dict(zip(header, cells, strict=True)))
        yield {**built, "gpu_info": ", ".join(gpus), **said}


def is_header(line: str) -> bool:
    """Whether a line is the header of a table; tables of llama-batched-bench have rates and no tests."""
    return line.lstrip().startswith("|") and {"test", "t/s"} <= set(_cells(line.strip()))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _from_markdown(place: str, row: Mapping[str, str]) -> dict[str, Any]:
    """A row under the names of the other formats."""
    test = _TEST.fullmatch(row["test"])
    if test is None or not (test[1] or test[2]):
        raise InputError(f"{place}, test", "be like pp512, tg128 or pp512+tg128 @ d1024", row["test"])
    others = {name: value for name, value in row.items() if name not in ("size", "params", "test", "t/s")}
    params = row.get("params", "")
    return {
        **{_DISPLAYED.get(name, name): value for name, value in others.items()},
        "n_prompt": test[1] or 0,
        "n_gen": test[2] or 0,
        "n_depth": test[3] or 0,
        "avg_ts": row["t/s"].partition("±")[0].strip(),
        "model_size": _amount(f"{place}, size", row.get("size", ""), 1),
        "model_n_params": _amount(f"{place}, params", params, 1e9),
        # A table rounds to two decimals of its unit.
        "params_within": 0.006 * (1e9 if params.endswith("B") else 1e6),
    }


def _amount(field: str, text: str, billion: float) -> float | None:
    """``4.58 GiB`` in bytes, ``8.03 B`` in units of one where B is a billion; None where a table lacks it."""
    if not text:
        return None
    number, _, unit = text.partition(" ")
    try:
        return float(number) * (billion if unit == "B" else _SIZES[unit])
    except (ValueError, KeyError):
        raise InputError(field, "be an amount, like 4.58 GiB or 8.03 B", text) from None


def read_llama_bench(path: str, records: Iterator[Mapping[str, Any]]) -> Reading:
    """What records of llama-bench measured.

    Args:
        path: The file, as errors name it.
        records: By the names of fields in CSV and JSON.

    Raises:
        InputError: A value is no number, or not possible.
        BrokenFileError: The file is cut short or damaged.
    """
    measurements, left_out = [], {}
    for number, record in enumerate(records):
        row = Fields(f"{path}: row {number}", record)
        why = _no_operation(row)
        if why:
            left_out[row.place] = why
        else:
            measurements.append(_measurement(row, record))
    return Reading(tuple(measurements), left_out)


def _no_operation(row: Fields) -> str:
    """Why a test is no operation of a dataset; empty if it is one."""
    prompt, generated, depth = (row.count(name, missing=0) for name in ("n_prompt", "n_gen", "n_depth"))
    if prompt and generated:
        return "prompt and generated tokens in one time (pp+tg)"
    if not prompt and not generated:
        return "neither prompt nor generated tokens"
    if prompt and depth:
        return "a prompt after tokens that the cache holds (pp @ d): datasets know prompts alone"
    if row.flag("embeddings"):
        return "embeddings, not generation"
    caches = {row.text(name).lower() for name in ("type_k", "type_v")} - {"", "f16", "bf16"}
    if caches:
        return f"a KV cache in {', '.join(sorted(caches))}: datasets know 16 bits"
    if row.text("tensor_buft_overrides") not in ("", "none") or row.count("n_cpu_moe", missing=0):
        return "tensors placed by name (-ot, -ncmoe): how many layers are on the GPU is not said"
    if sum(_split(row)) > 1 and not row.text("gpu_info"):
        return "layers split over GPUs (-ts) that the file does not name"
    if row.count("fit_target", missing=0):
        return "layers fitted to the memory (-fitt): how many are on the GPU is not said"
    return ""


def _measurement(row: Fields, record: Mapping[str, Any]) -> Measurement:
    prompt, generated, depth = (row.count(name, missing=0) for name in ("n_prompt", "n_gen", "n_depth"))
    steps = generated or 1
    repeats_s = tuple(ns / 1e9 / steps for ns in row.numbers("samples_ns"))
    if not repeats_s and row.has("avg_ns"):
        repeats_s = (row.above_zero("avg_ns") / 1e9 / steps,)
    elif not repeats_s:
        repeats_s = ((1 if generated else prompt) / row.above_zero("avg_ts"),)
    build = row.text("build_commit")
    version = f"{build} ({row.text('build_number') or '?'})" if build else ""
    gpus, backend = _gpus(row), _backend(row)
    layers = row.number("n_gpu_layers", -1e9) if row.has("n_gpu_layers") else -1
    whole = backend == "CPU" or layers < 0
    return Measurement(
        place=row.place,
        tool=f"llama-bench {version}".strip(),
        engine="llama-cpp",
        engine_version=f"llama.cpp {version}" if version else "",
        measured_at=row.text("test_time"),
        model=_model(row),
        operation="decode" if generated else "prefill",
        batch=1,
        prompt_tokens=prompt or depth,
        decode_tokens=generated,
        duration_s=repeats_s,
        cpu=row.text("cpu_info"),
        gpus=() if backend == "CPU" else gpus,
        backend=backend,
        threads=row.count("n_threads", least=1) if row.has("n_threads") else None,
        gpu_layers=None if whole else row.count("n_gpu_layers"),
        kv_on_host=row.flag("no_kv_offload") and backend != "CPU",
        settings=_settings(row),
        is_mean="samples_ns" not in record,
    )


def _backend(row: Fields) -> str:
    """What computed: BLAS is a CPU's. Early versions had a flag for each."""
    said = row.text("backends")
    if not said:
        on = [name for name in _BACKENDS if row.flag(name)]
        return on[0].upper() if on else "CPU" if row.has("cuda") else ""
    return "CPU" if said.upper() in ("CPU", "BLAS", "ZENDNN") else said.removesuffix(",BLAS")


def _gpus(row: Fields) -> tuple[str, ...]:
    """The GPUs that share the layers: all that there are, the main one, or as many as were named."""
    there = split_names(row.text("gpu_info"))
    named = row.text("devices")
    if named not in ("", "auto", "none"):
        count = len(re.split(r"[/;]", named))
        return there[:count] if len(set(there)) == 1 else (there if count == len(there) else ())
    if row.text("split_mode") == "none" and there:
        main = row.count("main_gpu", missing=0)
        if main >= len(there):
            raise InputError(f"{row.place}, main_gpu", f"be below {len(there)}, the number of GPUs", main)
        return (there[main],)
    split = _split(row)
    return tuple(gpu for gpu, takes in zip(there, split, strict=False) if takes) if any(split) else there


def _split(row: Fields) -> list[bool]:
    """Whether each GPU takes layers (``3.00/1.00``); empty where that is left to llama.cpp, or to one GPU."""
    shares = row.text("tensor_split").replace(",", "/").split("/")
    return [bool(share.strip(" 0.")) for share in shares] if row.text("split_mode") != "none" else []


def _model(row: Fields) -> ModelSaid:
    text = row.text("model_type")
    said = _DESCRIPTION.fullmatch(_BITS.sub("", text))
    return ModelSaid(
        text=text,
        file=row.text("model_filename"),
        architecture=said[1].lower() if said else "",
        params=row.above_zero("model_n_params") if row.has("model_n_params") else None,
        params_within=row.number("params_within") if row.has("params_within") else 0.0,
        weight_bytes=row.above_zero("model_size") if row.has("model_size") else None,
        quantization=said[2] if said else "",
    )


def _settings(row: Fields) -> dict[str, str]:
    words = {name: row.text(name).lower() for name in _SETTINGS if row.has(name)}
    plain = {name: {"false": "0", "true": "1"}.get(word, word) for name, word in words.items()}
    return {name: word for name, word in plain.items() if word != _SETTINGS[name]}
