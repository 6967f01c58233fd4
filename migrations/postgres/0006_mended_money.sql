-- The same as on SQLite (migrations/sqlite/0006_mended_money.sql), which says what each column means.

ALTER TABLE installation ADD COLUMN stripe_mode TEXT CHECK (stripe_mode IN ('simulated', 'test', 'live'));
ALTER TABLE installation ADD COLUMN account_since BIGINT;
ALTER TABLE top_ups ADD COLUMN former_account BIGINT NOT NULL DEFAULT 0 CHECK (former_account IN (0, 1));
ALTER TABLE stripe_events ADD COLUMN missing_since BIGINT;

CREATE TABLE adjustments (
    id          TEXT COLLATE "C" PRIMARY KEY,
    client      BIGINT NOT NULL REFERENCES clients (id),
    kind        TEXT COLLATE "C" NOT NULL CHECK (kind IN ('credit', 'write_off_debt')),
    amount      BIGINT NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    whole       BIGINT NOT NULL CHECK (whole IN (0, 1)),
    reason      TEXT NOT NULL,
    operator    TEXT NOT NULL,
    request_key TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at  BIGINT NOT NULL
);
CREATE INDEX adjustments_client ON adjustments (client, created_at);
CREATE INDEX adjustments_given ON adjustments (created_at) WHERE kind = 'credit';

CREATE TABLE adjustments_turn (
    one BIGINT PRIMARY KEY CHECK (one = 1)
);
INSERT INTO adjustments_turn (one) VALUES (1);
