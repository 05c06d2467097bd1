"""Events that no service sends: from a CSV file, by hand, or again after they were rejected."""
