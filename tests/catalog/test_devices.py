import pytest

from shunter.catalog.devices import DeviceSpec, parse_device
from shunter.errors import InputError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "kind", "index", "threads", "memory_bytes"),
    [
        ("cpu", "cpu", 0, 1, None),
        ("cpu:2-threads", "cpu", 0, 2, None),
        ("cpu:1-thread", "cpu", 0, 1, None),
        ("cpu:1-threads-600MB", "cpu", 0, 1, 600_000_000),
        ("cpu-2GB", "cpu", 0, 1, 2_000_000_000),
        ("cuda", "cuda", 0, None, None),
        ("cuda:1", "cuda", 1, None, None),
        ("cuda:0-20GB", "cuda", 0, None, 20_000_000_000),
        ("loopback:2-threads-600MB", "loopback", 0, 2, 600_000_000),
        ("loopback:1:2-threads-600MB", "loopback", 1, 2, 600_000_000),
    ],
)
def test_reads_devices(text, kind, index, threads, memory_bytes):
    assert parse_device(text) == DeviceSpec(text, kind, index, threads, memory_bytes)


FORM = "have the form kind[:index][:N-threads][-NNNMB], like loopback:2-threads-600MB"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"--device must {FORM}. Got '' instead."),
        ("cuda:-1", f"--device must {FORM}. Got 'cuda:-1' instead."),
        ("CUDA:0", f"--device must {FORM}. Got 'CUDA:0' instead."),
        ("loopback:2-threads-600", f"--device must {FORM}. Got 'loopback:2-threads-600' instead."),
        ("cpu:1.5-threads", f"--device must {FORM}. Got 'cpu:1.5-threads' instead."),
        ("cpu\n", f"--device must {FORM}. Got 'cpu\\n' instead."),
        ("cpu:0-threads", "--device must have at least one thread and one MB. Got 'cpu:0-threads' instead."),
        ("cuda:0-0MB", "--device must have at least one thread and one MB. Got 'cuda:0-0MB' instead."),
        (
            "cuda:2-threads",
            "--device must not name threads: a GPU has none to set. Got 'cuda:2-threads' instead.",
        ),
    ],
)
def test_refuses_other_forms(text, message):
    with pytest.raises(InputError) as caught:
        parse_device(text, field="--device")
    assert str(caught.value) == message


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        parse_device("cude:0")
    assert str(caught.value) == (
        "device: unknown name 'cude'; did you mean cuda or cpu? (known: cpu, cuda, loopback)"
    )


def test_the_name_is_kept_as_written():
    assert parse_device("cuda:00").name == "cuda:00"
