"""What a gateway recorded: read, played again in the simulator, and set beside what happened."""
