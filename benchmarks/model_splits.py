"""Which published rows are held out together, as committed lists of row ids: ``benchmarks/splits/*.json``.

``python -m benchmarks.model_splits`` writes them anew from the data; a test holds that this changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shunter.models.published.rows import published_frame
from shunter.profiling.dataset.reference import read_reference

__all__ = ["FOLDER", "AccuracySplit", "make_accuracy_splits", "read_split"]

FOLDER = Path(__file__).with_name("splits")
_SWEEP = "llama.cpp (mid-2023)"


@dataclass(frozen=True)
class AccuracySplit:
    """Rows held out together.

    Attributes:
        name: Name of the split's file.
        what: One sentence.
        folds: By what is held out: the rows that are not fitted. All other decode rows are.
        scored: Rows whose errors count; each is in one fold.
    """

    name: str
    what: str
    folds: dict[str, list[str]]
    scored: list[str]


def read_split(name: str) -> AccuracySplit:
    """Reads a committed split."""
    return AccuracySplit(**json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def make_accuracy_splits() -> list[AccuracySplit]:
    """All splits of the published llama.cpp decode rows, under one name for each GPU and each shape."""
    frame = published_frame()
    frame = frame[(frame["operation"] == "decode") & (frame["engine"] == "llama-cpp")]
    gpu, shape = frame["device"], frame["model"].str.rpartition(" ")[0]
    single, several = _fully_on_one_gpu(frame), frame["gpu_count"] > 1
    long = frame["context_tokens"] > 4000
    llama_3 = shape.isin(["Llama-3-8B", "Llama-3-70B"])
    sweep = frame["engine_version"] == _SWEEP
    deal = pd.Series(np.random.default_rng(0).permutation(len(frame)) % 10, index=frame.index).map(str)
    return [
        _split(
            "random",
            "Random tenths of all rows; scored: those whose lengths are stated.",
            frame,
            deal,
            frame["steps"] > 0,
        ),
        _split("leave_gpu_out", "All rows of one GPU; scored: decode fully on one GPU.", frame, gpu, single),
        _split(
            "leave_size_out",
            "All rows of Llama 3 8B, or of 70B; scored: decode fully on one GPU.",
            frame[llama_3],
            shape[llama_3],
            single[llama_3],
        ),
        _split(
            "leave_sweep_model_out",
            "All rows of one LLaMA shape; scored: its layer sweep on the RTX 3090.",
            frame[shape.isin(shape[sweep])],
            shape[shape.isin(shape[sweep])],
            sweep[shape.isin(shape[sweep])],
        ),
        _split("several_gpus", "All rows of one GPU; scored: models split over GPUs.", frame, gpu, several),
        _split(
            "long_context",
            "All rows of more than 4000 tokens of context, from shorter ones; scored: fully on one GPU.",
            frame[long],
            pd.Series("over 4000 tokens", index=frame.index)[long],
            single[long],
        ),
    ]


def _fully_on_one_gpu(frame: pd.DataFrame) -> pd.Series[bool]:
    """All layers and the KV cache on one GPU, decoding alone, with lengths that the source states."""
    raw = read_reference().set_index("row_id").loc[frame["row_id"]]
    stated = (raw["prompt_tokens"].notna() & raw["decode_tokens"].notna()).to_numpy()
    whole = (frame["gpu_layers"] == frame["total_layers"]) & (frame["kv_on_host"] == 0)
    return whole & (frame["gpu_count"] == 1) & (frame["device_kind"] == "cuda") & stated


def _split(
    name: str, what: str, frame: pd.DataFrame, label: pd.Series[str], scored: pd.Series[bool]
) -> AccuracySplit:
    folds = {str(key): sorted(ids) for key, ids in frame["row_id"].groupby(label) if scored[ids.index].any()}
    return AccuracySplit(name, what, folds, sorted(frame.loc[scored, "row_id"]))


def main() -> None:
    """Writes the files."""
    FOLDER.mkdir(exist_ok=True)
    for split in make_accuracy_splits():
        text = json.dumps(asdict(split), indent=1)
        (FOLDER / f"{split.name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
