"""What `meterstream bench` runs: CPU per event of our roles, beside floors and the stock idiom, on a stack of its own.

Every stage checks its results against the simulator's totals before a figure is kept.
"""
