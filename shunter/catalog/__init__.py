"""Facts about models, devices and hosts, and what can be computed from them."""
