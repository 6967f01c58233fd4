-- Whose money the wallets are: the mode of Stripe, and the account, that this database charges in.

-- NULL: an earlier version has written this database, and nothing has been proven yet.
ALTER TABLE installation ADD COLUMN stripe_mode TEXT CHECK (stripe_mode IN ('simulated', 'test', 'live'));

-- Since when, in Unix microseconds, it charges in the account that it has now; NULL: it has never had another one.
ALTER TABLE installation ADD COLUMN account_since INTEGER;

-- 1: charged in an account that has been given up since. Nothing of it can be read, refunded or disputed from here. The newest
-- PaymentIntent that is not one of these proves which account the database belongs to.
ALTER TABLE top_ups ADD COLUMN former_account INTEGER NOT NULL DEFAULT 0 CHECK (former_account IN (0, 1));

-- Since when every look at Stripe has said that there is no such object; NULL: the last look did not say so.
ALTER TABLE stripe_events ADD COLUMN missing_since INTEGER;

-- What operators give clients, or let them off: credit that cannot be refunded, and debt that is written off. The entry
-- adjustment:ID moves it.
CREATE TABLE adjustments (
    id          TEXT    PRIMARY KEY,
    client      INTEGER NOT NULL REFERENCES clients (id),
    kind        TEXT    NOT NULL CHECK (kind IN ('credit', 'write_off_debt')),
    amount      INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    whole       INTEGER NOT NULL CHECK (whole IN (0, 1)),   -- all of the debt was asked for
    reason      TEXT    NOT NULL,
    operator    TEXT    NOT NULL,
    request_key TEXT    NOT NULL UNIQUE,   -- hash of the operator's key: the same key adjusts once
    created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX adjustments_client ON adjustments (client, created_at);
CREATE INDEX adjustments_given ON adjustments (created_at) WHERE kind = 'credit';

-- One row: whoever writes an adjustment locks it, so that what is given in a day is summed up by one at a time.
CREATE TABLE adjustments_turn (
    one INTEGER PRIMARY KEY CHECK (one = 1)
) STRICT;
INSERT INTO adjustments_turn (one) VALUES (1);
