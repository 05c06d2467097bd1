ALTER TABLE meter.ledger
    DROP CONSTRAINT ledger_amount_check,
    ADD CONSTRAINT ledger_amount_check CHECK (
        (pricing = 'priced' AND amount IS NOT NULL) OR (pricing IN ('unpriced', 'unmetered') AND amount IS NULL)
    ) NOT VALID;
