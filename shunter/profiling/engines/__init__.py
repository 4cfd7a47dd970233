"""Where the engine boundary was before: plug-ins import it from here, and get ``shunter.engines``."""
