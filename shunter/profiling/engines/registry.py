"""``shunter.engines.registry`` under its former name, the very same module."""

import sys

from shunter.engines import registry

sys.modules[__name__] = registry
