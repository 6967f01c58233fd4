-- People who may look at the admin pages.
CREATE TABLE admin_users (
    id            INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    password_hash TEXT    NOT NULL,      -- argon2id, PHC string
    created_at    INTEGER NOT NULL
) STRICT;

-- The session token's SHA-256; the token itself is only in the browser's cookie.
CREATE TABLE admin_sessions (
    hash         BLOB    PRIMARY KEY CHECK (length(hash) = 32),
    admin_user   INTEGER NOT NULL REFERENCES admin_users (id),
    csrf_token   TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX admin_sessions_user ON admin_sessions (admin_user);

-- What the admin pages search by. Clients and keys are made once, so the hot path never touches these.
CREATE INDEX client_keys_shown_prefix ON client_keys (shown_prefix);
CREATE INDEX clients_stripe_customer ON clients (stripe_customer) WHERE stripe_customer IS NOT NULL;
