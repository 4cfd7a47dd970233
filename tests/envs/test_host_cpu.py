"""A scenario names its host's CPU, and layers left there are read at what its memory can do."""

import pytest

from shunter.catalog.hosts import catalog_hosts, get_host
from shunter.envs.scenario.fields import checked
from shunter.envs.scenario.limits import Limits
from shunter.errors import InputError


def limits(**given):
    return checked(Limits, given, source="s.yaml", whole="limits")


@pytest.mark.parametrize("name", ["EPYC 9654", "AMD EPYC 9654 96-Core Processor"])
def test_a_cpu_stands_for_its_bandwidth(name):
    assert limits(host_cpu=name).host_bandwidth_bytes_per_s == get_host("EPYC 9654").bandwidth_bytes_per_s
    assert limits(host_bandwidth_gb_s=50).host_bandwidth_bytes_per_s == 50e9
    assert limits().host_bandwidth_bytes_per_s is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host_cpu": "EPYC 96540"}, r"host_cpu must be a CPU of the catalogue \(did you mean EPYC 9654"),
        ({"host_cpu": "EPYC 9654", "host_bandwidth_gb_s": 1}, "must have host_cpu or host_bandwidth_gb_s"),
    ],
)
def test_what_is_no_host_is_refused_in_one_line(given, said):
    with pytest.raises(InputError, match=said) as caught:
        limits(**given)
    assert "\n" not in str(caught.value)


def test_every_cpu_of_the_catalogue_is_found_by_its_own_name_and_says_where_it_is_from():
    for name, host in catalog_hosts().items():
        assert get_host(name) == host
        assert host.bandwidth_bytes_per_s > 1e9
        assert host.source_url.startswith("https://")
