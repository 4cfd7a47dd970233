from __future__ import annotations

import json

from shunter import __version__
from shunter.engines.base import Capabilities
from shunter.eval.provenance import commit, provenance
from shunter.models.performance import PerformanceModel


def test_it_says_with_what_figures_were_made(fake_performance: PerformanceModel) -> None:
    engines = [
        Capabilities(name, version, "cpu", True, True, ("gguf",), {"lib": "3"})
        for name, version in (("b", "2.0"), ("a", "1.0"), ("b", "2.0"))
    ]
    made = provenance(fake_performance, engines)
    assert made["engine_version"] == "a 1.0, b 2.0"
    assert made["versions"]["shunter"] == __version__
    assert made["versions"]["b"] == "2.0"
    assert made["versions"]["lib"] == "3"
    assert made["performance"]["data"] == fake_performance.state_.data_fingerprint
    assert json.loads(json.dumps(made)) == made


def test_nothing_is_said_of_what_did_not_run(fake_performance: PerformanceModel) -> None:
    made = provenance()
    assert made["engine_version"] is None
    assert made["performance"] is None
    scaled = fake_performance.with_scales((), ["a run"])
    first, other = (provenance(p)["performance"]["digest"] for p in (fake_performance, scaled))
    assert first != other


def test_a_commit_is_that_of_this_checkout_or_nothing() -> None:
    found = commit()
    assert found is None or len(found.removesuffix("-dirty")) >= 12
