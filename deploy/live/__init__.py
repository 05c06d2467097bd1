"""What is live for people: budgets, alerts and the table of `top`."""
