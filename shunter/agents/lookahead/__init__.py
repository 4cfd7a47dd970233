"""Look-ahead: tries candidates on copies of the state in the same drawn futures, played on by cost-greedy."""
