"""Commands that run policies and show what came of it: eval, compare, timeline, export."""
