-- Looks at every row of the ledger once, beside whoever reads and writes it.
ALTER TABLE meter.ledger VALIDATE CONSTRAINT ledger_amount_check;
