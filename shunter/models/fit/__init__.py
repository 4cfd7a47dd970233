"""From rows to a performance model: a device's own factors, factors shared by all devices, and intervals."""
