import pytest

from shunter.catalog.devices import DeviceSpec, parse_device
from shunter.engines.caller.entries import start_engine
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


FORM = (
    "have the form kind[:index][:N-threads][-cores-N[+N]][-share-NN][-mmap][-NNNMB], "
    "like loopback:2-threads-600MB"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"--device must {FORM}. Got '' instead."),
        ("cuda:-1", f"--device must {FORM}. Got 'cuda:-1' instead."),
        ("CUDA:0", f"--device must {FORM}. Got 'CUDA:0' instead."),
        ("loopback:2-threads-600", f"--device must {FORM}. Got 'loopback:2-threads-600' instead."),
        ("cpu:1.5-threads", f"--device must {FORM}. Got 'cpu:1.5-threads' instead."),
        ("cpu:cores-", f"--device must {FORM}. Got 'cpu:cores-' instead."),
        (
            "loopback:share-4",
            "--device must have a share from 5 to 100 percent. Got 'loopback:share-4' instead.",
        ),
        (
            "cpu:share-50",
            "--device must not name a share: only loopback devices can be slowed down. "
            "Got 'cpu:share-50' instead.",
        ),
        ("cpu-600MB-mmap", f"--device must {FORM}. Got 'cpu-600MB-mmap' instead."),
        (
            "vulkan:0-cores-1",
            "--device must not name cores: a GPU has none to set. Got 'vulkan:0-cores-1' instead.",
        ),
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
        "device: unknown name 'cude'; did you mean cuda or cpu? (known: cpu, cuda, loopback, vulkan)"
    )


def test_the_name_is_kept_as_written():
    assert parse_device("cuda:00").name == "cuda:00"


@pytest.mark.parametrize(
    ("text", "threads", "cores", "mmap", "memory_bytes"),
    [
        ("loopback:1-threads-cores-0", 1, (0,), False, None),
        ("loopback:2-threads-cores-1+0-600MB", 2, (0, 1), False, 600_000_000),
        ("cpu:core-3", 1, (3,), False, None),
        ("cpu:cores-2+3", 2, (2, 3), False, None),
        ("loopback:1-threads-mmap", 1, (), True, None),
        ("loopback:3:1-threads-cores-0-mmap-2GB", 1, (0,), True, 2_000_000_000),
        ("vulkan-mmap", None, (), True, None),
    ],
)
def test_reads_cores_and_mmap(text, threads, cores, mmap, memory_bytes):
    spec = parse_device(text)
    assert (spec.threads, spec.cores, spec.mmap, spec.memory_bytes) == (threads, cores, mmap, memory_bytes)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cuda:1-20GB", "cuda:1"),
        ("vulkan-mmap-8GB", "vulkan:0-mmap"),
        ("cpu-2GB", "cpu:1-threads"),
        ("loopback:1:2-threads-600MB", "loopback:2-threads"),
        ("loopback:1-threads-cores-1+0+1-600MB", "loopback:1-threads-cores-0+1"),
        ("loopback:1-threads-cores-0-mmap-600MB", "loopback:1-threads-cores-0-mmap"),
        ("loopback-share-50-2GB", "loopback:1-threads-share-50"),
        ("loopback:cores-1-share-100", "loopback:1-threads-cores-1"),
        ("loopback:1-threads-cores-1-share-25-mmap", "loopback:1-threads-cores-1-share-25-mmap"),
    ],
)
def test_the_hardware_is_the_device_without_its_budget(text, name):
    assert parse_device(text).hardware_name == name
    assert parse_device(name).hardware_name == name


@pytest.mark.parametrize(
    "address", ["GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "0000:65:00.0", "00000000:0A:1f.7"]
)
def test_a_cuda_device_may_be_named_by_its_uuid_or_pci_address(address: str) -> None:
    spec = parse_device(f"cuda:{address}-20GB")
    assert (spec.kind, spec.address, spec.memory_bytes) == ("cuda", address, 20_000_000_000)
    assert spec.hardware_name == f"cuda:{address}"
    with pytest.raises(InputError, match="only CUDA devices have a UUID or PCI address"):
        parse_device(f"vulkan:{address}")
    with pytest.raises(InputError, match="workers find no GPU by its UUID or PCI address"):
        start_engine("fake", f"cuda:{address}")
