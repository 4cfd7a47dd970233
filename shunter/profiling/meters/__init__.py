"""What else is measured beside durations: other programs' use of the machine, clocks, and energy."""
