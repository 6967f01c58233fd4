-- The same tables as on SQLite (migrations/sqlite/0004_money_truth.sql), which says what each column means.

CREATE TABLE stripe_events (
    id          TEXT COLLATE "C" PRIMARY KEY,
    type        TEXT COLLATE "C" NOT NULL,
    object      TEXT COLLATE "C" NOT NULL,
    created     BIGINT NOT NULL,
    body        TEXT    NOT NULL,
    state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('received', 'applied', 'ignored', 'parked')),
    why         TEXT,
    tries       BIGINT NOT NULL DEFAULT 0,
    received_at BIGINT NOT NULL,
    next_try_at BIGINT NOT NULL,
    ended_at    BIGINT
);
CREATE INDEX stripe_events_open ON stripe_events (next_try_at) WHERE state IN ('received', 'parked');
CREATE INDEX stripe_events_ended ON stripe_events (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE stripe_cursor (
    id      BIGINT PRIMARY KEY CHECK (id = 1),
    created BIGINT NOT NULL
);

CREATE TABLE refunds (
    id            TEXT COLLATE "C" PRIMARY KEY,
    top_up        TEXT COLLATE "C" NOT NULL REFERENCES top_ups (id),
    client        BIGINT NOT NULL REFERENCES clients (id),
    amount        BIGINT NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    bonus         BIGINT NOT NULL CHECK (bonus  BETWEEN 0 AND 9000000000000000),
    origin        TEXT COLLATE "C" NOT NULL CHECK (origin IN ('operator', 'stripe', 'fraud_warning')),
    state         TEXT COLLATE "C" NOT NULL CHECK (state IN ('requested', 'pending', 'succeeded', 'failed')),
    stripe_refund TEXT COLLATE "C" UNIQUE,
    request_key   TEXT COLLATE "C" UNIQUE,
    whole         BIGINT CHECK (whole IN (0, 1)),
    reason        TEXT,
    operator      TEXT,
    failure       TEXT,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL
);
CREATE INDEX refunds_top_up ON refunds (top_up);
CREATE INDEX refunds_open ON refunds (updated_at) WHERE state IN ('requested', 'pending');

CREATE TABLE disputes (
    id         TEXT COLLATE "C" PRIMARY KEY,
    top_up     TEXT COLLATE "C" NOT NULL REFERENCES top_ups (id),
    client     BIGINT NOT NULL REFERENCES clients (id),
    charge     TEXT COLLATE "C" NOT NULL,
    amount     BIGINT NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    status     TEXT COLLATE "C" NOT NULL,
    reason     TEXT COLLATE "C" NOT NULL,
    due_by     BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX disputes_top_up ON disputes (top_up);

CREATE TABLE fraud_warnings (
    id         TEXT COLLATE "C" PRIMARY KEY,
    top_up     TEXT COLLATE "C" NOT NULL REFERENCES top_ups (id),
    client     BIGINT NOT NULL REFERENCES clients (id),
    charge     TEXT COLLATE "C" NOT NULL,
    type       TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX fraud_warnings_top_up ON fraud_warnings (top_up);

CREATE TABLE freezes (
    client     BIGINT NOT NULL REFERENCES clients (id),
    cause      TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    lifted_at  BIGINT,
    lifted_by  TEXT,
    PRIMARY KEY (client, cause)
);

CREATE TABLE charge_attempts (
    id      TEXT COLLATE "C" PRIMARY KEY,
    at      BIGINT NOT NULL,
    network TEXT COLLATE "C" NOT NULL
);
CREATE INDEX charge_attempts_at ON charge_attempts (at);
CREATE INDEX charge_attempts_network ON charge_attempts (network, at);
CREATE INDEX top_ups_fingerprint ON top_ups (fingerprint, created_at) WHERE fingerprint IS NOT NULL;

CREATE TABLE new_payers (
    id           BIGINT PRIMARY KEY CHECK (id = 1),
    paused_until BIGINT NOT NULL
);
INSERT INTO new_payers (id, paused_until) VALUES (1, 0);

ALTER TABLE top_ups ADD COLUMN charge TEXT COLLATE "C";
CREATE INDEX top_ups_without_charge ON top_ups (id) WHERE state = 'succeeded' AND charge IS NULL;
ALTER TABLE clients ADD COLUMN card_consent_at BIGINT;

INSERT INTO freezes (client, cause, created_at) SELECT id, 'operator', created_at FROM clients WHERE status = 'frozen';

CREATE TABLE installation (
    one            BIGINT PRIMARY KEY CHECK (one = 1),
    id             TEXT COLLATE "C" NOT NULL,
    compared_until BIGINT NOT NULL
);
