"""``shunter.envs.gym.scheduling`` under its former name, the very same module."""

import sys

from shunter.envs.gym import scheduling

sys.modules[__name__] = scheduling
