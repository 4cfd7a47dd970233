"""Rules that serve in the order of arrival; they differ in when they collate, and what they let wait."""
