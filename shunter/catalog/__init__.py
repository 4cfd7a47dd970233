"""Facts about models, devices and hosts, and what follows from them; the rows are in ``shunter/data``."""
