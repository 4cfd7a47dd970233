import json

from shunter.profiling.dataset.fingerprint import digest, hardware, hardware_id, versions


def test_the_hardware_is_described_and_its_id_is_stable():
    facts = hardware()
    assert facts["logical_cores"] >= 1
    assert facts["ram_gib"] >= 0
    assert json.loads(json.dumps(facts)) == facts
    assert hardware_id() == hardware_id(dict(facts))


def test_a_kernel_update_keeps_the_id_and_another_machine_does_not():
    facts = hardware()
    assert hardware_id({**facts, "kernel": "another"}) == hardware_id(facts)
    for key, value in (("cpu_model", "x"), ("logical_cores", 999), ("ram_gib", -1), ("gpus", ["x"])):
        assert hardware_id({**facts, key: value}) != hardware_id(facts)


def test_versions_name_the_engine_and_what_it_adds():
    found = versions("fake", "1.2", {"torch": "9"})
    assert (found["fake"], found["torch"]) == ("1.2", "9")
    assert {"python", "shunter", "numpy", "pandas", "pyarrow"} < set(found)


def test_a_digest_depends_on_values_and_not_on_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest(1, 16)) == 16
