-- Accounts are rows, and entries name the client key that spent.

-- What the numbers in entries.debit and entries.credit mean; `prepaid402 verify` compares it with the program (ledger::Account).
CREATE TABLE IF NOT EXISTS ledger_accounts (
    number   INTEGER PRIMARY KEY,   -- never another one
    kind     TEXT NOT NULL,
    instance TEXT NOT NULL,         -- through whom its money goes, where there may be several; otherwise empty
    UNIQUE (kind, instance)
) STRICT;
INSERT INTO ledger_accounts (number, kind, instance) VALUES
    (1, 'client_paid', ''),
    (2, 'client_bonus', ''),
    (3, 'client_debt', ''),
    (4, 'holds', ''),
    (5, 'clearing', 'stripe'),
    (6, 'fees', 'stripe'),
    (7, 'refund_pending', ''),
    (8, 'revenue', ''),
    (9, 'promotion', ''),
    (10, 'adjustment', ''),
    (11, 'dispute', 'stripe'),
    (12, 'breakage', '')
ON CONFLICT DO NOTHING;

-- Entries name keys by number: an id of 36 characters in each would be most of an entry. The trigger numbers the keys, so that a
-- program that does not know the column adds them as before. No key is ever deleted: its number would be given again.
ALTER TABLE client_keys ADD COLUMN number INTEGER;
UPDATE client_keys SET number = rowid;
CREATE UNIQUE INDEX client_keys_number ON client_keys (number);
CREATE TRIGGER client_keys_are_numbered AFTER INSERT ON client_keys WHEN NEW.number IS NULL
BEGIN
    UPDATE client_keys SET number = (SELECT COALESCE(MAX(number), 0) + 1 FROM client_keys) WHERE id = NEW.id;
END;

-- The client key that spent: of usage and holds. NULL for what was written before, and where nobody spends. No foreign key: it would
-- cost a look-up an entry; `prepaid402 verify` checks it instead.
ALTER TABLE entries ADD COLUMN key INTEGER;
