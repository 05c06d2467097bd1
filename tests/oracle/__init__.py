"""An independent model of what meterstream must write, in plain Python and exact fractions.

It shares no code with the product on purpose: it is written from the contract (README, topics.yaml, the
comments of `schema/`), reads the bytes that were published and the price rows, and says which event must
be in the ledger with which amount, which is a duplicate, which is rejected, and what the rollups hold.
A mistake of the product cannot hide behind the same mistake here, as long as nothing is imported from it.
"""
