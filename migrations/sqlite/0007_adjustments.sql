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
