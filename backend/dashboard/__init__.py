"""Pages to look at: what the loop knows, for people who know nothing of machine learning."""
