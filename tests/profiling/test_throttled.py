import numpy as np
import pytest

from shunter.profiling.dataset.busy import busy_words
from shunter.profiling.dataset.schema import frame_of
from shunter.profiling.dataset.throttled import throttled, throttled_words
from tests.profiling.test_dataset import row


def frame(*conditions):
    plain = {"throttle_reasons": 0.0, "sm_clock_mhz": 1980.0, "hardware_id": "h", "device": "cuda:0"}
    return frame_of([row(str(i), **{**plain, **c}) for i, c in enumerate(conditions)])


@pytest.mark.parametrize(
    ("condition", "held_back", "why"),
    [
        ({}, False, ""),
        ({"throttle_reasons": 4.0}, True, "power cap 1"),
        ({"throttle_reasons": 0x20 | 0x40}, True, "heat 1, heat (hardware) 1"),
        ({"throttle_reasons": 0x400}, True, "other reasons 1"),
        ({"throttle_reasons": 0x1 | 0x2 | 0x100}, False, ""),
        ({"throttle_reasons": np.nan, "sm_clock_mhz": np.nan}, False, ""),
        ({"sm_clock_mhz": 1300.0}, True, "low clock 1"),
        ({"sm_clock_mhz": 1500.0}, False, ""),
        ({"sm_clock_mhz": 1300.0, "device": "cuda:1"}, False, ""),
        ({"sm_clock_mhz": 1300.0, "hardware_id": "other"}, False, ""),
    ],
)
def test_rows_of_a_gpu_held_back_are_marked_and_counted(condition, held_back, why):
    rows = frame({}, condition)
    assert throttled(rows).tolist() == [False, held_back]
    assert throttled_words(rows) == (f"1 of 2 rows ({why})" if why else "")


@pytest.mark.parametrize(
    ("cores", "said"),
    [
        ([0.0, 0.1, 5.0], ""),
        ([np.nan, 1.6, 1.68], "other programs used 1.6 CPU cores at the median row"),
        ([np.nan], ""),
    ],
)
def test_a_profile_of_a_busy_machine_is_called_so(cores, said):
    assert busy_words(frame(*({"background_cores": c} for c in cores))) == said
