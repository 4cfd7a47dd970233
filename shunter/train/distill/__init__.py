"""Several trained policies as one network: ``lessons`` collects what they decide, ``distill`` learns it."""
