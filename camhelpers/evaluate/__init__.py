"""Is an explanation right? Scores against masks and against the model, sanity checks, statistics, the report."""
