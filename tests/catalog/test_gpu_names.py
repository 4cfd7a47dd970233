"""What drivers, clouds and people call GPUs, and which entry that is: the one it names, or none."""

import pytest

from shunter.catalog.gpus import catalog_gpus, get_gpu, gpu_name
from shunter.errors import InputError, UnknownNameError

NAMES = {
    # nvidia-smi, torch.cuda.get_device_name
    "NVIDIA GB300": "GB300",
    "NVIDIA GB300, 284208 MiB": "GB300",
    "NVIDIA GB300, 189471 MiB": None,
    "Apple M5": None,
    "Apple M5 16GB": "M5 16GB",
    "Apple M5 Pro 48GB": "M5 Pro 48GB",
    "Apple M5 Max 128GB": "M5 Max 128GB",
    "NVIDIA A100-SXM4-40GB": "A100 SXM4 40GB",
    "A100-SXM4-40GB": "A100 SXM4 40GB",
    "NVIDIA A100-SXM4-40GB, 40960 MiB": "A100 SXM4 40GB",
    "NVIDIA A100-SXM4-80GB": "A100 SXM4 80GB",
    "NVIDIA A100-SXM4-80GB, 81920 MiB": "A100 SXM4 80GB",
    "NVIDIA A100-PCIE-40GB": "A100 PCIe 40GB",
    "NVIDIA A100 80GB PCIe": "A100 PCIe 80GB",
    "NVIDIA A800-SXM4-80GB": "A800 SXM4 80GB",
    "NVIDIA A800 80GB PCIe": "A800 PCIe 80GB",
    "NVIDIA H100 80GB HBM3": "H100 SXM5 80GB",
    "NVIDIA H100 80GB HBM3, 81559 MiB": "H100 SXM5 80GB",
    "NVIDIA H100 PCIe": "H100 PCIe 80GB",
    "NVIDIA H100 NVL, 95830 MiB": "H100 NVL 94GB",
    "NVIDIA H800": "H800 SXM5 80GB",
    "NVIDIA H20, 97871 MiB": "H20 96GB",
    "NVIDIA H200": "H200 SXM",
    "NVIDIA H200, 143771 MiB": "H200 SXM",
    "NVIDIA H200 NVL": "H200 NVL",
    "NVIDIA B200, 183359 MiB": "B200",
    "NVIDIA GB200, 189471 MiB": "GB200",
    "NVIDIA GH200 480GB, 97871 MiB": "GH200 96GB",
    "GH200 120GB": "GH200 96GB",
    "NVIDIA GH200 144G HBM3e": "GH200 144GB",
    "GH200": None,
    "GH200 480GB, 81920 MiB": None,
    "NVIDIA B300 SXM6 AC, 275040 MiB": "B300",
    "B300 192GB": None,
    "NVIDIA GB10": "GB10",
    "Tesla V100-SXM2-16GB": "V100 SXM2 16GB",
    "Tesla V100-SXM2-32GB": "V100 SXM2 32GB",
    "Tesla V100-SXM3-32GB": "V100 SXM3 32GB",
    "Tesla V100-PCIE-16GB": "V100 PCIe 16GB",
    "Tesla V100-PCIE-32GB": "V100 PCIe 32GB",
    "Tesla V100S-PCIE-32GB": "V100S PCIe 32GB",
    "Tesla P100-PCIE-12GB": "P100 PCIe 12GB",
    "Tesla P100-PCIE-16GB": "P100 PCIe 16GB",
    "Tesla P100-SXM2-16GB": "P100 SXM2 16GB",
    "Tesla P40, 22919 MiB": "P40",
    "Tesla P4": "Tesla P4",
    "Tesla T4": "T4",
    "Tesla T4, 15360 MiB": "T4",
    "Tesla T4, 15109 MiB": "T4",
    "NVIDIA A2": "A2",
    "NVIDIA A10, 23028 MiB": "A10",
    "NVIDIA A10, 24564 MiB": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA A16, 15356 MiB": "A16",
    "NVIDIA A30": "A30",
    "NVIDIA A40, 46068 MiB": "A40",
    "NVIDIA L4, 23034 MiB": "L4",
    "NVIDIA L20": "L20",
    "NVIDIA L40": "L40",
    "NVIDIA L40S, 46068 MiB": "L40S",
    "NVIDIA RTX A6000, 49140 MiB": "RTX A6000",
    "NVIDIA RTX A6000, 46068 MiB": "RTX A6000",
    "NVIDIA RTX A5000": "RTX A5000",
    "NVIDIA RTX A2000 12GB": "RTX A2000 12GB",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "NVIDIA RTX 5000 Ada Generation": "RTX 5000 Ada",
    "NVIDIA RTX 4000 SFF Ada Generation": "RTX 4000 SFF Ada",
    "NVIDIA RTX 3500 Ada Generation Laptop GPU": "RTX 3500 Ada Laptop",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTX PRO 6000 Blackwell Workstation",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition, 97887 MiB": "RTX PRO 6000 Blackwell Server",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": "RTX PRO 6000 Blackwell Max-Q",
    "NVIDIA RTX PRO 4500 Blackwell": "RTX PRO 4500 Blackwell",
    "NVIDIA RTX PRO 5000 Blackwell, 48935 MiB": "RTX PRO 5000 Blackwell 48GB",
    "Quadro RTX 8000": "Quadro RTX 8000",
    "Quadro RTX 6000": "Quadro RTX 6000",
    "NVIDIA TITAN V": "Titan V",
    "TITAN RTX": "Titan RTX",
    "NVIDIA TITAN X (Pascal)": "Titan X Pascal",
    "NVIDIA GeForce GTX 1060 6GB": "GTX 1060 6GB",
    "NVIDIA GeForce GTX 1080 Ti": "GTX 1080 Ti",
    "NVIDIA GeForce GTX 1660 SUPER": "GTX 1660 SUPER",
    "GeForce RTX 2070 with Max-Q Design": None,
    "NVIDIA GeForce RTX 2080 Super with Max-Q Design": "RTX 2080 SUPER Max-Q",
    "NVIDIA GeForce RTX 2080 Ti, 11264 MiB": "RTX 2080 Ti",
    "NVIDIA GeForce RTX 3060, 12288 MiB": "RTX 3060 12GB",
    "NVIDIA GeForce RTX 3060 Laptop GPU": "RTX 3060 Laptop",
    "NVIDIA GeForce RTX 3080, 10240 MiB": "RTX 3080 10GB",
    "NVIDIA GeForce RTX 3080, 12288 MiB": "RTX 3080 12GB",
    "NVIDIA GeForce RTX 3080 Ti, 12288 MiB": "RTX 3080 Ti",
    "NVIDIA GeForce RTX 3090, 24576 MiB": "RTX 3090",
    "NVIDIA GeForce RTX 4060 Ti, 16380 MiB": "RTX 4060 Ti 16GB",
    "NVIDIA GeForce RTX 4060 Ti, 8188 MiB": "RTX 4060 Ti 8GB",
    "NVIDIA GeForce RTX 4070 Ti SUPER": "RTX 4070 Ti SUPER",
    "NVIDIA GeForce RTX 4090, 24564 MiB": "RTX 4090",
    "NVIDIA GeForce RTX 4090 D": "RTX 4090 D",
    "NVIDIA GeForce RTX 4090 Laptop GPU": "RTX 4090 Laptop",
    "NVIDIA GeForce RTX 4090 Laptop GPU, 16376 MiB": "RTX 4090 Laptop",
    "NVIDIA GeForce RTX 5070 Ti, 16303 MiB": "RTX 5070 Ti",
    "NVIDIA GeForce RTX 5090, 32607 MiB": "RTX 5090",
    "NVIDIA GeForce RTX 5090 Laptop GPU": "RTX 5090 Laptop",
    # rocm-smi, torch on ROCm, Vulkan
    "AMD Instinct MI300X": "MI300X",
    "AMD Instinct MI300X OAM": "MI300X",
    "AMD Instinct MI300X, 196592 MiB": "MI300X",
    "AMD Instinct MI325X": "MI325X",
    "AMD Instinct MI210": "MI210",
    "AMD INSTINCT MI250 (MCM) OAM AC MBA": "MI250",
    "AMD Radeon RX 7900 XTX": "RX 7900 XTX",
    "AMD Radeon RX 7900 XTX (RADV NAVI31)": "RX 7900 XTX",
    "AMD Radeon PRO W7900": "Radeon PRO W7900",
    "AMD Radeon AI PRO R9700": "Radeon AI PRO R9700",
    "AMD Radeon RX 9060 XT, 16304 MiB": "RX 9060 XT 16GB",
    "AMD Radeon VII": "Radeon VII",
    "AMD Radeon(TM) 8060S Graphics, 98304 MiB": "Radeon 8060S 96GB",
    # system_profiler, Metal
    "Apple M2 Max, 64 GB": "M2 Max 64GB",
    "Apple M4 Pro 48GB": "M4 Pro 48GB",
    "Apple M3 Ultra, 512GB": "M3 Ultra 512GB",
    # clouds and Kubernetes
    "NVIDIA-A100-SXM4-80GB": "A100 SXM4 80GB",
    "NVIDIA-GeForce-RTX-3090": "RTX 3090",
    "nvidia-tesla-t4": "T4",
    "nvidia-l4": "L4",
    "H100 SXM": "H100 SXM5 80GB",
    "rtx4090": "RTX 4090",
    "RTX 4090 24GB": "RTX 4090",
    # another card than those of the catalogue, or one of several
    "NVIDIA A100-SXM-64GB": None,
    "NVIDIA A100-SXM4-80GB, 40960 MiB": None,
    "A100": None,
    "NVIDIA A100 80GB": None,
    "H100": None,
    "NVIDIA H100 80GB HBM2e": None,
    "NVIDIA H20-3e": "H20-3e 141GB",
    "NVIDIA H20-3e, 143771 MiB": "H20-3e 141GB",
    "NVIDIA H20, 143771 MiB": None,
    "NVIDIA GH200 480GB": "GH200 96GB",
    "NVIDIA L20X": None,
    "NVIDIA GeForce RTX 3080": None,
    "NVIDIA GeForce RTX 3060": None,
    "NVIDIA GeForce RTX 3080 Ti, 20480 MiB": None,
    "NVIDIA GeForce RTX 2080 Ti, 22528 MiB": None,
    "NVIDIA GeForce RTX 4090, 49140 MiB": None,
    "NVIDIA GeForce RTX 4080 SUPER, 32760 MiB": None,
    "NVIDIA GeForce RTX 5090 D": None,
    "RTX 6000": None,
    "RTX 5000": None,
    "NVIDIA TITAN X": None,
    "NVIDIA Graphics Device": None,
    "Orin": None,
    "Apple M2 Max": None,
    "AMD Radeon Graphics": None,
    "AMD Radeon RX 7900 XT/7900 XTX": None,
    "Intel(R) Arc(tm) A770 Graphics (DG2)": None,
    "2x NVIDIA L4": None,
    # slices
    "NVIDIA A100-SXM4-80GB MIG 3g.40gb": None,
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb": None,
    "GRID A100D-40C": None,
    "NVIDIA A40-48Q": None,
    "NVIDIA A16-8C": None,
    # no GPU
    "": None,
    "cuda:0": None,
    "cpu:1-threads": None,
}


@pytest.mark.parametrize(("text", "name"), NAMES.items())
def test_a_gpu_is_the_one_that_its_driver_names_or_none(text, name):
    assert gpu_name(text) == name


def test_the_table_is_of_many_names():
    assert len(NAMES) >= 80


@pytest.mark.parametrize("name", catalog_gpus())
def test_a_name_of_the_catalogue_is_its_own_however_it_is_written(name):
    lower, hyphens = name.lower(), name.replace(" ", "-")
    assert [gpu_name(text) for text in (name, lower, hyphens, f"NVIDIA {name}")] == [name] * 4


@pytest.mark.parametrize("name", catalog_gpus())
def test_a_stated_size_that_differs_is_another_card(name):
    other = f"{name}, {7 * catalog_gpus()[name].marketed_bytes // (5 * 2**20)} MiB"
    assert gpu_name(other) is None


def test_a_gpu_is_looked_up_by_its_drivers_name():
    assert get_gpu("NVIDIA A100-SXM4-40GB").memory_bytes == 40 * 2**30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RTX 3080", r"did you mean RTX 3080 10GB or RTX 3080 12GB\? \(known: \d+ names\)$"),
        ("NVIDIA A100-SXM-64GB", r"did you mean A100 SXM4 80GB or A100 SXM4 40GB"),
        ("H100", r"did you mean H100 PCIe 80GB or H100 SXM5 80GB or H100 NVL 94GB"),
        ("Apple M2 Max", r"did you mean M2 Max 32GB or M2 Max 64GB or M2 Max 96GB\?"),
        ("rtx a600", r"did you mean RTX A6000 "),
        ("zzz", r"none of the \d+ names is like it$"),
    ],
)
def test_an_unknown_gpu_names_the_nearest(text, message):
    with pytest.raises(UnknownNameError, match=rf"^--gpu: unknown name '{text}'; {message}"):
        get_gpu(text, field="--gpu")


@pytest.mark.parametrize(
    "text",
    [
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "GRID A100D-20C",
        "NVIDIA L40S-24Q",
        "NVIDIA A10-12Q",
        "NVIDIA H100L-94C",
    ],
)
def test_a_slice_is_refused_by_name(text):
    with pytest.raises(InputError, match=r"^devices\.gpu must be a whole GPU: slices of one \(MIG, vGPU\)"):
        get_gpu(text, field="devices.gpu")
