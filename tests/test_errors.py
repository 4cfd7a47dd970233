import numpy as np
import pytest

from shunter.errors import BrokenFileError, InputError, ShunterError, UnknownNameError, VersionError


def test_input_error_says_field_rule_and_value():
    error = InputError("workload.rate_per_s", "be above zero", -1.5)
    assert str(error) == "workload.rate_per_s must be above zero. Got -1.5 instead."
    assert error.field == "workload.rate_per_s"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lama-cpp",
            "engine: unknown name 'lama-cpp'; did you mean llama-cpp? (known: fake, llama-cpp, vllm)",
        ),
        (
            "VLLM",
            "engine: unknown name 'VLLM'; did you mean vllm or llama-cpp? (known: fake, llama-cpp, vllm)",
        ),
        ("zzz", "engine: unknown name 'zzz'; be one of fake, llama-cpp, vllm"),
    ],
)
def test_unknown_name_lists_the_nearest(name, message):
    assert str(UnknownNameError("engine", name, ["vllm", "llama-cpp", "fake"])) == message


def test_version_error_says_both_versions():
    error = VersionError("a.parquet", "dataset schema", 3, 1)
    assert str(error) == "a.parquet: dataset schema must be version 1 for this shunter. Got 3 instead."


def test_broken_file_says_why():
    assert str(BrokenFileError("a.gguf", "it is truncated")) == "a.gguf: cannot be read: it is truncated"


@pytest.mark.parametrize(
    "error",
    [
        InputError("a", "be b", "c"),
        UnknownNameError("a", "b", ["c"]),
        VersionError("a", "b", 1, 2),
        BrokenFileError("a", "b"),
        InputError("models.a\nb\u2028.name", "be \x1b[2J", "c\n"),
        UnknownNameError("a\r", "b\n", ["c\nd"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(error):
    assert isinstance(error, ShunterError)
    assert error.exit_code == 2
    assert str(error).isprintable()


def test_other_errors_have_exit_code_1():
    assert ShunterError("a").exit_code == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.float64(0.0), "0.0"),
        (np.int64(3), "3"),
        (np.bool_(True), "True"),
        (np.str_("a"), "'a'"),
        ([np.float64(1.5), "x"], "[1.5, 'x']"),
        ((np.int32(1),), "(1,)"),
        ({"a": np.float32(0.5)}, "{'a': 0.5}"),
        (np.array([1, 2]), "[1, 2]"),
        ([None], "[None]"),
        (1e-5, "1e-05"),
    ],
)
def test_numbers_of_numpy_are_shown_as_numbers(value, shown):
    assert str(InputError("f", "be g", value)) == f"f must be g. Got {shown} instead."
    assert str(VersionError("a", "b", value, 1)).endswith(f"Got {shown} instead.")


def test_nothing_is_not_shown_as_a_value():
    assert str(InputError("--like", "name a model", None)) == "--like must name a model. Nothing was given."
