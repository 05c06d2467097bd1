"""Roles as processes: kept running, watched, asked how they are."""
