"""One model: its ID, facts, limits, repo files, weights and labels."""
