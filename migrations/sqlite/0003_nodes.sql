-- What several processes, or one that was restarted, must know of each other. On SQLite there is one node at a time.

-- Processes that run, or did. A lease that has run out means that the node is dead: others finish what it left.
CREATE TABLE nodes (
    id          TEXT    PRIMARY KEY,       -- made anew at every start
    started_at  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,          -- by the database's clock; 0: it said goodbye
    sweep_until INTEGER NOT NULL           -- until then another node finishes what this one left
) STRICT, WITHOUT ROWID;

-- Amounts set aside durably for running requests. The entries hold:ID and usage:ID or release:ID move the money; the row is
-- there exactly between them.
CREATE TABLE holds (
    request    TEXT    PRIMARY KEY,
    client     INTEGER NOT NULL REFERENCES clients (id),
    amount     INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    node       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX holds_node ON holds (node);

-- The node that works on an unfinished attempt; nobody else does while that node lives.
ALTER TABLE top_ups ADD COLUMN node TEXT;

-- Requests with an Idempotency-Key, and the answers of those that were charged.
CREATE TABLE idempotency_keys (
    scope        BLOB    PRIMARY KEY CHECK (length(scope) = 32),   -- SHA-256 of client, method, path and key
    fingerprint  BLOB    NOT NULL CHECK (length(fingerprint) = 32), -- SHA-256 of query and body
    request      TEXT    NOT NULL UNIQUE,
    node         TEXT    NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('running', 'charged', 'interrupted')),
    status       INTEGER,
    headers      TEXT,                                             -- JSON: [[name, value], …]
    body         BLOB,                                             -- NULL: too large to be kept
    repeats      INTEGER NOT NULL DEFAULT 0,                       -- answers fetched again without a charge
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_expires ON idempotency_keys (expires_at);

-- What tells nodes whether they share the key secret: a digest of each version, from which the secret cannot be computed.
CREATE TABLE key_secret_versions (
    version INTEGER PRIMARY KEY,
    digest  BLOB    NOT NULL CHECK (length(digest) = 32)
) STRICT;
