"""Several trained policies as one network: what they decide is collected, then learned."""
