"""Prices in Postgres, and what events cost by them: now, then, or if they were sent."""
