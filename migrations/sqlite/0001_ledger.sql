-- Money is INTEGER micros (1/1,000,000 of the currency's major unit). Times are Unix microseconds. Ids of people-facing
-- things are UUIDv7 text. The hot path uses integers.

-- Who pays: one row is one wallet. Balances change only in the transaction that appends the entry saying why.
CREATE TABLE clients (
    id              INTEGER PRIMARY KEY,
    public_id       TEXT    NOT NULL UNIQUE,
    currency        TEXT    NOT NULL,
    paid            INTEGER NOT NULL CHECK (paid  BETWEEN 0 AND 9000000000000000),
    bonus           INTEGER NOT NULL CHECK (bonus BETWEEN 0 AND 9000000000000000),
    debt            INTEGER NOT NULL CHECK (debt  BETWEEN 0 AND 9000000000000000),
    sequence        INTEGER NOT NULL CHECK (sequence >= 0),   -- entries of this client so far
    last_entry      INTEGER,                                  -- newest entry; entries.previous leads back from it
    status          TEXT    NOT NULL CHECK (status IN ('active', 'frozen')),
    stripe_customer TEXT,
    created_at      INTEGER NOT NULL
) STRICT;

-- Bearer keys of clients (the wire's clientId). The key is HMAC(key secret, id); only its SHA-256 is here.
CREATE TABLE client_keys (
    id             TEXT    PRIMARY KEY,
    client         INTEGER NOT NULL REFERENCES clients (id),
    hash           BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    shown_prefix   TEXT    NOT NULL,
    secret_version INTEGER NOT NULL,
    scope          TEXT    NOT NULL CHECK (scope IN ('owner', 'spend', 'read')),
    created_at     INTEGER NOT NULL,
    revoked_at     INTEGER
) STRICT;
CREATE INDEX client_keys_client ON client_keys (client);

-- The exact PaymentMethod that first paid reaches the same client again. Only its SHA-256 is here.
CREATE TABLE payment_method_bindings (
    hash       BLOB    PRIMARY KEY CHECK (length(hash) = 32),
    client     INTEGER NOT NULL REFERENCES clients (id),
    key        TEXT    NOT NULL REFERENCES client_keys (id),
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

-- Append-only. Every entry moves one amount from a debit to a credit account, so the books balance by construction.
-- There is no index by client: `previous` chains a client's entries, which keeps the hot path's writes sequential.
CREATE TABLE entries (
    id              INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,
    source          TEXT    NOT NULL UNIQUE,  -- topup:ID, usage:ID, reversal:ID, …; the idempotency key of the move
    debit           INTEGER NOT NULL,         -- account numbers: ledger::Account
    credit          INTEGER NOT NULL,
    amount          INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    currency        TEXT    NOT NULL,
    client          INTEGER REFERENCES clients (id),
    sequence        INTEGER,                  -- the client's counter after this entry
    previous        INTEGER,                  -- the client's entry before this one
    paid_after      INTEGER,
    bonus_after     INTEGER,
    debt_after      INTEGER,
    route           INTEGER REFERENCES routes (id),
    price_list      INTEGER REFERENCES price_lists (id),
    upstream_status INTEGER
) STRICT;
CREATE TRIGGER entries_are_never_updated BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END;
CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END;

-- Names that entries use by number.
CREATE TABLE routes (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE   -- "GET /api/weather"
) STRICT;
CREATE TABLE price_lists (
    id         INTEGER PRIMARY KEY,
    digest     TEXT    NOT NULL UNIQUE,
    prices     TEXT    NOT NULL,   -- JSON: route name -> price in micros
    created_at INTEGER NOT NULL
) STRICT;

-- Attempts to turn a card charge into credit. The row is older than its charge.
CREATE TABLE top_ups (
    id              TEXT    PRIMARY KEY,
    client          INTEGER REFERENCES clients (id),  -- NULL until a new payer's first top-up is recorded
    key             TEXT    NOT NULL,                 -- the client key that answers carry; becomes the owner key of a new client
    key_hash        BLOB    NOT NULL CHECK (length(key_hash) = 32),
    key_secret      INTEGER NOT NULL,                 -- version of the key secret that the key derives from
    pm_hash         BLOB    CHECK (length(pm_hash) = 32),  -- NULL for Stripe's shared test names, which identify nobody
    fingerprint     TEXT,
    request_key     BLOB    UNIQUE CHECK (length(request_key) = 32),  -- SHA-256 of payer and Idempotency-Key
    currency        TEXT    NOT NULL,
    amount          INTEGER NOT NULL CHECK (amount > 0),   -- charged
    bonus           INTEGER NOT NULL CHECK (bonus >= 0),   -- credited on top
    state           TEXT    NOT NULL CHECK (state IN ('created', 'confirming', 'pending', 'succeeded', 'failed')),
    failure         TEXT,                             -- stable code, when failed
    stripe_customer TEXT,
    payment_intent  TEXT    UNIQUE,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    CHECK (state <> 'succeeded' OR (client IS NOT NULL AND payment_intent IS NOT NULL))
) STRICT;
-- At most one unfinished attempt per client, per card token and per card, held while its outcome is unknown.
CREATE UNIQUE INDEX top_ups_open_client ON top_ups (client) WHERE client IS NOT NULL AND state IN ('created', 'confirming', 'pending');
CREATE UNIQUE INDEX top_ups_open_pm ON top_ups (pm_hash) WHERE pm_hash IS NOT NULL AND state IN ('created', 'confirming', 'pending');
CREATE UNIQUE INDEX top_ups_open_fingerprint ON top_ups (fingerprint) WHERE fingerprint IS NOT NULL AND state IN ('created', 'confirming', 'pending');
CREATE INDEX top_ups_open ON top_ups (updated_at) WHERE state IN ('created', 'confirming', 'pending');
CREATE INDEX top_ups_client ON top_ups (client, id);
CREATE INDEX top_ups_pm ON top_ups (pm_hash, created_at) WHERE pm_hash IS NOT NULL;
CREATE INDEX top_ups_key ON top_ups (key_hash);

-- One row per node: captures whose answer has not been delivered yet, rewritten by every commit. Reversed at restart.
CREATE TABLE undelivered (
    node    TEXT PRIMARY KEY,
    entries TEXT NOT NULL        -- JSON array of entry ids
) STRICT, WITHOUT ROWID;
