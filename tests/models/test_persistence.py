"""Files from strangers: loading one runs nothing, and either gives a model or one clear refusal."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.errors import BrokenFileError, VersionError
from shunter.models import PerformanceModel
from shunter.models.published.rows import published_frame
from shunter.seals import sealed


@pytest.fixture(scope="module")
def content(one_model, tmp_path_factory):
    """A real file's content, with both kinds of fits."""
    rows = one_model[one_model["operation"].isin(["load", "decode"])]
    state = PerformanceModel().fit(rows).state_
    gpus = published_frame().query("operation == 'decode' and engine == 'llama-cpp' and device == 'RTX 3090'")
    shared = PerformanceModel().fit(gpus).state_.shared
    folder = tmp_path_factory.mktemp("content")
    model = PerformanceModel()._set(state.model_copy(update={"shared": shared}))
    return json.loads(model.save(folder).read_text())


def load(tmp_path, data):
    path = tmp_path / "performance.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(sealed(data)).encode())
    return PerformanceModel.load(path)


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


CODE = "__import__('pathlib').Path('exploded').touch()"
HOSTILE = {
    "pickle": pickle.dumps(Bomb()),
    "pickle, protocol 0": pickle.dumps(Bomb(), protocol=0),
    "YAML tag": f'!!python/object/apply:eval ["{CODE}"]'.encode(),
    "YAML": b"format: shunter-performance-model\nversion: 1\n",
    "Python": f"({CODE})".encode(),
    "JavaScript": b'{"format": "shunter-performance-model", "version": (function(){})()}',
    "nothing": b"",
    "zeros": b"\0" * 4096,
    "no UTF-8": b'{"format": "\xff\xfe"}',
    "a list": b"[]",
    "a number": b"1",
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of a million digits": b'{"version": ' + b"9" * 1_000_000 + b"}",
    "two files": b'{"format": "shunter-performance-model"} {}',
    "another format": b'{"format": "pickle", "version": 1}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_model_is_refused_and_nothing_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((BrokenFileError, VersionError), match=r"performance\.json"):
        load(tmp_path, HOSTILE[name])
    assert [p.name for p in tmp_path.iterdir()] == ["performance.json"]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ["seen_log_errors", "ranges", "facts", "factors"])
def test_numbers_that_are_none_are_refused(literal, place, content, tmp_path):
    made = copy.deepcopy(content)
    if place == "seen_log_errors":
        made["fits"][0]["seen_log_errors"][0] = "HERE"
    elif place == "ranges":
        next(iter(made["fits"][0]["ranges"].values()))[1] = "HERE"
    elif place == "facts":
        next(iter(made["models"].values()))["params"] = "HERE"
    else:
        made["shared"][0]["physics"]["factors"]["launch"] = "HERE"
    with pytest.raises(BrokenFileError):
        load(tmp_path, json.dumps(made).replace('"HERE"', literal).encode())


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: c.update(exec=CODE), "exec"),
        (lambda c: c["fits"][0].update(__class__="os.system"), "fits.0.__class__"),
        (lambda c: c["fits"][0]["physics"].update(__reduce__=CODE), r"fits.0.physics.__reduce__"),
        (lambda c: c.update(fits={}), "fits"),
        (lambda c: c["fits"][0].update(target=7), "fits.0.target"),
        (lambda c: c["fits"][0].update(target="../../etc/passwd"), "fits.0"),
        (lambda c: c["fits"][0]["physics"]["coefficients"].update({CODE: 1.0}), "fits.0"),
        (lambda c: c["shared"][0].update(target="no_such_s"), "shared.0"),
        (lambda c: c["shared"][0]["physics"]["factors"].pop("step"), "shared.0"),
        (lambda c: c["models"].update(x="facts"), "models.x"),
        (lambda c: c["models"].update(x={}), "models: .* x lacks params"),
        (lambda c: c["fits"][0]["physics"]["corrections"].update(b=[]), "fits.0.*no level"),
        (lambda c: c["shared"][0]["errors"].pop(""), "shared.0"),
        (lambda c: c["shared"][0]["errors"][""].update(cell=-0.1), "shared.0.errors..cell"),
        (lambda c: c.pop("residents"), "residents"),
        (lambda c: c.pop("cv"), "cv"),
    ],
)
def test_a_wrong_part_is_named(change, place, content, tmp_path):
    made = copy.deepcopy(content)
    change(made)
    with pytest.raises(BrokenFileError, match=place):
        load(tmp_path, made)


@pytest.mark.parametrize("version", [0, 999, 1e400, "1", None, [1]])
def test_other_versions_are_refused(version, content, tmp_path):
    text = json.dumps({**content, "version": 0}).replace('"version": 0', f'"version": {json.dumps(version)}')
    with pytest.raises((VersionError, BrokenFileError)):
        load(tmp_path, text.replace("Infinity", "1e400").encode())


def test_names_are_only_names(content, tmp_path):
    made = copy.deepcopy(content)
    facts = made["models"].pop("b")
    made["models"]["../../outside"] = facts
    model = load(tmp_path, made)
    assert list(model.models.index) == ["../../outside"]
    model.save(tmp_path / "again")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "performance.json"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_or_scratched_anywhere_is_refused_or_still_a_model(data, content, tmp_path):
    whole = json.dumps(content).encode()
    at = data.draw(st.integers(0, len(whole) - 2))
    byte = data.draw(st.integers(0, 255))
    for made in (whole[:at], whole[:at] + bytes([byte]) + whole[at + 1 :]):
        try:
            model = load(tmp_path, made)
        except (BrokenFileError, VersionError):
            continue
        assert made is not whole[:at]
        assert model.state_.fits


def test_loading_imports_no_unpickler_of_models(content, tmp_path):
    (tmp_path / "performance.json").write_text(json.dumps(content))
    code = (
        "import sys; from shunter.models import PerformanceModel; import pickle;"
        "pickle.loads = pickle.load = pickle.Unpickler = None;"
        f"PerformanceModel.load({str(tmp_path)!r}); assert 'joblib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
