"""What policies see: ``features`` names every number, ``observe`` computes them in compiled code."""
