"""Why a trained policy does as it does: what it learned, what that changes, and what that is worth."""
