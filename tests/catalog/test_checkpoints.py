import json
import struct
from contextlib import suppress

import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.models import ModelSpec
from shunter.errors import BrokenFileError, InputError
from shunter.profiling.checkpoints.synthetic import write_checkpoint

SHAPE = ModelSpec("shape", 3, 64, 4, 2, 16, 96, 300)
FAMILIES = {
    "llama": SHAPE,
    "qwen2": ModelSpec("qwen2", 2, 64, 4, 1, 16, 96, 300, tied_embeddings=True, qkv_bias=True),
    "qwen3": ModelSpec("qwen3", 4, 64, 2, 2, 64, 128, 259, qk_norm=True),
}
KINDS = [
    ("gguf", "F32"),
    ("gguf", "F16"),
    ("gguf", "Q8_0"),
    ("gguf", "Q4_0"),
    ("safetensors", "F32"),
    ("safetensors", "F16"),
    ("safetensors", "BF16"),
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_checkpoint(
        SHAPE, tmp_path_factory.mktemp("g") / "m.gguf", format="gguf", quantization="F16"
    ).path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("s") / "m"
    return write_checkpoint(SHAPE, out, format="safetensors", quantization="F16").path


@pytest.fixture
def folder_copy(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def elements_and_bytes(path):
    """Counts weights and their bytes with the formats' own libraries."""
    if path.is_dir():
        with safe_open(path / "model.safetensors", "np") as file:
            sizes = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118 - no mapping
            width = {"F32": 4, "F16": 2, "BF16": 2}
            shapes = [(s.get_shape(), width[s.get_dtype()]) for s in sizes]
        counts = [(prod(shape), prod(shape) * nbytes) for shape, nbytes in shapes]
    else:
        counts = [(int(t.n_elements), int(t.n_bytes)) for t in GGUFReader(path).tensors]
    return sum(n for n, _ in counts), sum(b for _, b in counts)


def prod(shape):
    count = 1
    for size in shape:
        count *= size
    return count


@pytest.mark.parametrize(("format", "quantization"), KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_reads_back_the_shape_and_size_that_was_written(tmp_path, family, format, quantization):
    out = tmp_path / (f"{family}.gguf" if format == "gguf" else family)
    write_checkpoint(FAMILIES[family], out, format=format, quantization=quantization)
    found = read_checkpoint(out)
    assert found.spec == ModelSpec(**{**vars(FAMILIES[family]), "name": family})
    assert found.spec.architecture == family
    assert (found.name, found.path, found.format, found.quantization) == (family, out, format, quantization)
    assert (found.spec.params, found.weight_bytes) == elements_and_bytes(out)


def test_layer_bytes_are_those_of_one_layer(gguf, folder):
    assert read_checkpoint(folder).layer_weight_bytes == 2 * SHAPE.params_per_layer
    norms = 2 * SHAPE.hidden_size
    assert read_checkpoint(gguf).layer_weight_bytes == 2 * (SHAPE.params_per_layer - norms) + 4 * norms


def test_nothing_there_is_bad_input(tmp_path):
    with pytest.raises(
        InputError, match=r"^--model must name a GGUF file or a Hugging Face folder that exists"
    ):
        read_checkpoint(tmp_path / "none.gguf")


def test_a_file_inside_a_folder_is_bad_input(folder):
    with pytest.raises(InputError, match=r"must name the folder that holds config\.json"):
        read_checkpoint(folder / "model.safetensors")


def test_an_empty_folder_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"must be a GGUF file or a folder that holds config\.json"):
        read_checkpoint(tmp_path, field="--model")


def test_a_folder_without_weights_is_bad_input(folder_copy):
    (folder_copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"must hold model\.safetensors or model\.safetensors\.index\.json"):
        read_checkpoint(folder_copy)


def test_a_gguf_that_lacks_its_last_byte_is_broken(gguf, tmp_path):
    data = gguf.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:-1])
    with pytest.raises(
        BrokenFileError, match=f"truncated: its header promises {len(data)} bytes, and it has"
    ):
        read_checkpoint(tmp_path / "cut.gguf")


def test_safetensors_that_lack_their_last_byte_are_broken(folder_copy):
    file = folder_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BrokenFileError, match=r"model\.safetensors: cannot be read: it is truncated"):
        read_checkpoint(folder_copy)


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 0.9999))
def test_any_truncation_is_one_clear_error(gguf, folder, tmp_path_factory, share):
    place = tmp_path_factory.mktemp("cut")
    weights = (folder / "model.safetensors").read_bytes()
    (place / "config.json").write_bytes((folder / "config.json").read_bytes())
    (place / "model.safetensors").write_bytes(weights[: int(share * len(weights))])
    data = gguf.read_bytes()
    (place / "m.gguf").write_bytes(data[: int(share * len(data))])
    for path in (place, place / "m.gguf"):
        with pytest.raises(BrokenFileError, match=r"truncated|not a GGUF file"):
            read_checkpoint(path)


@settings(deadline=None, max_examples=150)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_damaged_headers_never_give_a_traceback(gguf, folder, tmp_path_factory, at, byte):
    place = tmp_path_factory.mktemp("damaged")
    (place / "config.json").write_bytes((folder / "config.json").read_bytes())
    for source, target in (
        (gguf, place / "m.gguf"),
        (folder / "model.safetensors", place / "model.safetensors"),
    ):
        data = bytearray(source.read_bytes())
        data[int(at * 4000)] = byte
        target.write_bytes(data)
    for path in (place, place / "m.gguf"):
        with suppress(InputError):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a GGUF file"),
        (b"hello world", "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "no token embedding"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60), "its header promises 1152921504606846976"),
    ],
)
def test_other_files_are_not_gguf(tmp_path, data, why):
    path = tmp_path / "m.gguf"
    metadata = b""
    if why == "no token embedding":
        text = [b"general.architecture", b"llama"]
        metadata = struct.pack("<Q", len(text[0])) + text[0] + struct.pack("<IQ", 8, len(text[1])) + text[1]
        data = data[:-8] + struct.pack("<Q", 1)
    path.write_bytes(data + metadata)
    with pytest.raises(BrokenFileError, match=why):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("architecture", "experts", "message"),
    [
        ("bloom", None, r"be a model of a family of llama, .*\. Got '.*: bloom'"),
        ("newmoe", 8, r"be a model of a family of llama, .*\. Got '.*: newmoe'"),
    ],
)
def test_other_architectures_are_refused_by_name(tmp_path, folder_copy, architecture, experts, message):
    writer = GGUFWriter(tmp_path / "other.gguf", architecture)
    if experts:
        writer.add_expert_count(experts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    config = json.loads((folder_copy / "config.json").read_text())
    config |= {"model_type": architecture, "num_local_experts": experts}
    (folder_copy / "config.json").write_text(json.dumps(config))
    for path in (tmp_path / "other.gguf", folder_copy):
        with pytest.raises(InputError, match=message) as caught:
            read_checkpoint(path)
        assert not isinstance(caught.value, BrokenFileError)


@pytest.mark.parametrize("key", ["pooling_type", "attention.causal"])
def test_embedding_models_are_refused(tmp_path, key):
    writer = GGUFWriter(tmp_path / "m.gguf", "qwen3")
    if key == "pooling_type":
        writer.add_uint32("qwen3.pooling_type", 3)
    else:
        writer.add_bool("qwen3.attention.causal", False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="must be a model that generates text, not one for embeddings"):
        read_checkpoint(tmp_path / "m.gguf")


def test_a_folder_without_an_output_layer_is_refused(folder_copy):
    config = json.loads((folder_copy / "config.json").read_text()) | {"architectures": ["Qwen3Model"]}
    (folder_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"generates text.* Got '.*: Qwen3Model'"):
        read_checkpoint(folder_copy)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (((4, 8), 0), ((4, 8), 64), "its tensors a and token_embd.weight overlap"),
        (((4, 8), 128), ((4, 7), 0), "token_embd.weight has rows of 7 in blocks of 32"),
    ],
)
def test_a_tensor_table_that_lies_is_broken(tmp_path, first, second, why):
    def tensor(name, shape, offset, kind):
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        return struct.pack("<Q", len(name)) + name + dims + struct.pack("<IQ", kind, offset)

    kind = 8 if "blocks" in why else 0  # Q8_0 or F32
    table = tensor(b"a", *first, 0) + tensor(b"token_embd.weight", *second, kind)
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + table + bytes(4096))
    with pytest.raises(BrokenFileError, match=why):
        read_checkpoint(path)


def test_an_embedding_of_another_width_is_broken(gguf, tmp_path):
    data = gguf.read_bytes()
    key = b"qwen3.embedding_length" if b"qwen3.embedding_length" in data else b"llama.embedding_length"
    key = key if key in data else b"qwen2.embedding_length"
    place = data.index(key) + len(key) + 4
    width = struct.unpack_from("<I", data, place)[0]
    (tmp_path / "m.gguf").write_bytes(data[:place] + struct.pack("<I", 2 * width) + data[place + 4 :])
    with pytest.raises(
        BrokenFileError, match=f"embedding_length {2 * width}, and its token embedding is {width}"
    ):
        read_checkpoint(tmp_path / "m.gguf")


def test_parts_of_a_split_gguf_are_refused(tmp_path):
    writer = GGUFWriter(tmp_path / "m-00001-of-00002.gguf", "llama")
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="must be one GGUF file"):
        read_checkpoint(tmp_path / "m-00001-of-00002.gguf")


def test_reads_sharded_folders(folder, folder_copy):
    whole = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    table = json.loads(whole[8:start])
    names = sorted(name for name in table if name != "__metadata__")
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2])):
        shard = f"model-{number}.safetensors"
        header, data = {}, b""
        for name in part:
            first, last = table[name]["data_offsets"]
            piece = whole[start + first : start + last]
            header[name] = table[name] | {"data_offsets": [len(data), len(data) + len(piece)]}
            data += piece
            weight_map[name] = shard
        text = json.dumps(header).encode()
        (folder_copy / shard).write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder_copy / "model.safetensors").unlink()
    (folder_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found, expected = read_checkpoint(folder_copy), read_checkpoint(folder)
    assert found.weight_bytes == expected.weight_bytes
    assert found.layer_weight_bytes == expected.layer_weight_bytes

    (folder_copy / "model-1.safetensors").unlink()
    with pytest.raises(BrokenFileError, match=r"model-1\.safetensors: cannot be read: No such file"):
        read_checkpoint(folder_copy)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hidden_size": None}, "hidden_size must be a whole number above zero. Got None"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers must be a whole number above zero. Got '3'"),
        ({"num_hidden_layers": 7}, "it says 7 layers and holds the tensors of 3"),
    ],
)
def test_a_config_that_does_not_fit_is_broken(folder_copy, change, why):
    config = json.loads((folder_copy / "config.json").read_text()) | change
    (folder_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(BrokenFileError, match=why):
        read_checkpoint(folder_copy)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", '{"a":' * 100_000])
def test_a_config_that_is_no_json_object_is_broken(folder_copy, text):
    (folder_copy / "config.json").write_text(text)
    with pytest.raises(
        BrokenFileError, match=r"config\.json: cannot be read: (no JSON|it holds no JSON object)"
    ):
        read_checkpoint(folder_copy)
