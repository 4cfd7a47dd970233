"""``shunter.engines.base`` under its former name, the very same module."""

import sys

from shunter.engines import base

sys.modules[__name__] = base
