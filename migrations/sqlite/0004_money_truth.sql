-- What becomes of a charge afterwards: refunds, disputes, fraud warnings; Stripe's events about it; and who has tried to pay.

-- Stripe's events, each once, whether a webhook brought it or the reconciler fetched it.
CREATE TABLE stripe_events (
    id          TEXT    PRIMARY KEY,       -- evt_…
    type        TEXT    NOT NULL,
    object      TEXT    NOT NULL,          -- the id of what it is about; empty: it has none
    created     INTEGER NOT NULL,          -- Unix seconds, by Stripe's clock
    body        TEXT    NOT NULL,          -- as it came, less what could be used to pay
    state       TEXT    NOT NULL CHECK (state IN ('received', 'applied', 'ignored', 'parked')),
    why         TEXT,                      -- why it was parked or ignored
    tries       INTEGER NOT NULL DEFAULT 0,
    received_at INTEGER NOT NULL,
    next_try_at INTEGER NOT NULL,
    ended_at    INTEGER                    -- when it was applied or ignored
) STRICT, WITHOUT ROWID;
CREATE INDEX stripe_events_open ON stripe_events (next_try_at) WHERE state IN ('received', 'parked');
CREATE INDEX stripe_events_ended ON stripe_events (ended_at) WHERE ended_at IS NOT NULL;

-- How far the events have been fetched: one row.
CREATE TABLE stripe_cursor (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    created INTEGER NOT NULL               -- Unix seconds: everything older has been seen
) STRICT;

-- Money on its way back to a card. The entries refund:ID, refund-paid:ID and refund-return:ID move it.
CREATE TABLE refunds (
    id            TEXT    PRIMARY KEY,     -- ours, also for those that were made at Stripe
    top_up        TEXT    NOT NULL REFERENCES top_ups (id),
    client        INTEGER NOT NULL REFERENCES clients (id),
    amount        INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    bonus         INTEGER NOT NULL CHECK (bonus  BETWEEN 0 AND 9000000000000000),   -- its share of the top-up's bonus
    origin        TEXT    NOT NULL CHECK (origin IN ('operator', 'stripe', 'fraud_warning')),
    state         TEXT    NOT NULL CHECK (state IN ('requested', 'pending', 'succeeded', 'failed')),
    stripe_refund TEXT    UNIQUE,          -- re_…, once known
    request_key   TEXT    UNIQUE,          -- the operator's own key of the request: the same key refunds once
    whole         INTEGER CHECK (whole IN (0, 1)),   -- asked for without an amount; NULL: not asked for here
    reason        TEXT,
    operator      TEXT,
    failure       TEXT,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX refunds_top_up ON refunds (top_up);
CREATE INDEX refunds_open ON refunds (updated_at) WHERE state IN ('requested', 'pending');

CREATE TABLE disputes (
    id         TEXT    PRIMARY KEY,        -- Stripe's
    top_up     TEXT    NOT NULL REFERENCES top_ups (id),
    client     INTEGER NOT NULL REFERENCES clients (id),
    charge     TEXT    NOT NULL,           -- ch_…
    amount     INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    status     TEXT    NOT NULL,           -- Stripe's word
    reason     TEXT    NOT NULL,           -- Stripe's word
    due_by     INTEGER,                    -- Unix seconds: evidence is taken until then
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX disputes_top_up ON disputes (top_up);

CREATE TABLE fraud_warnings (
    id         TEXT    PRIMARY KEY,        -- issfr_…
    top_up     TEXT    NOT NULL REFERENCES top_ups (id),
    client     INTEGER NOT NULL REFERENCES clients (id),
    charge     TEXT    NOT NULL,
    type       TEXT    NOT NULL,           -- Stripe's word
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX fraud_warnings_top_up ON fraud_warnings (top_up);

-- Why a client is frozen: clients.status says 'frozen' as long as one of these has not been lifted.
CREATE TABLE freezes (
    client     INTEGER NOT NULL REFERENCES clients (id),
    cause      TEXT    NOT NULL,           -- 'operator', 'dispute:ID', 'fraud_warning:ID'
    created_at INTEGER NOT NULL,
    lifted_at  INTEGER,
    lifted_by  TEXT,
    PRIMARY KEY (client, cause)
) STRICT, WITHOUT ROWID;

-- Where new payers' attempts to pay come from, for the limits that keep stolen cards from being tried here. What became of an
-- attempt stands in top_ups, and only there. Removed when no limit counts it, since addresses are nobody's business for longer.
CREATE TABLE charge_attempts (
    id      TEXT    PRIMARY KEY,           -- the top-up's
    at      INTEGER NOT NULL,
    network TEXT    NOT NULL               -- the caller's: /24 of IPv4, /64 of IPv6
) STRICT, WITHOUT ROWID;
CREATE INDEX charge_attempts_at ON charge_attempts (at);
CREATE INDEX charge_attempts_network ON charge_attempts (network, at);
CREATE INDEX top_ups_fingerprint ON top_ups (fingerprint, created_at) WHERE fingerprint IS NOT NULL;

-- Whether new payers are let through: one row, which whoever lets one through holds locked while counting.
CREATE TABLE new_payers (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    paused_until INTEGER NOT NULL
) STRICT;
INSERT INTO new_payers (id, paused_until) VALUES (1, 0);

-- The charge of a succeeded top-up, under which Stripe names it in disputes; and since when the caller has agreed that the
-- card may be charged again, NULL: never.
ALTER TABLE top_ups ADD COLUMN charge TEXT;
CREATE INDEX top_ups_without_charge ON top_ups (id) WHERE state = 'succeeded' AND charge IS NULL;
ALTER TABLE clients ADD COLUMN card_consent_at INTEGER;

-- Whoever was frozen before stays so.
INSERT INTO freezes (client, cause, created_at) SELECT id, 'operator', created_at FROM clients WHERE status = 'frozen';

-- Which gateway this is among those that charge through one Stripe account: in the metadata of every charge. And up to when,
-- by Stripe's clock, every charge of it that succeeded has its row. One row.
CREATE TABLE installation (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    id             TEXT    NOT NULL,
    compared_until INTEGER NOT NULL        -- Unix seconds
) STRICT;
