-- The same as on SQLite (migrations/sqlite/0007_card_identity.sql), which says what each column means.

CREATE TABLE card_checks (
    id           TEXT COLLATE "C" PRIMARY KEY,
    attempt      TEXT COLLATE "C" NOT NULL,
    pm_hash      BYTEA  NOT NULL CHECK (length(pm_hash) = 32),
    fingerprint  TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL CHECK (state IN ('asked', 'passed', 'failed', 'unsaid')),
    setup_intent TEXT COLLATE "C",
    client       BIGINT REFERENCES clients (id),
    asked_at     BIGINT NOT NULL,
    ended_at     BIGINT
);
CREATE UNIQUE INDEX card_checks_open ON card_checks (fingerprint) WHERE state = 'asked';
CREATE INDEX card_checks_fingerprint ON card_checks (fingerprint, asked_at);
CREATE INDEX card_checks_asked ON card_checks (asked_at);

ALTER TABLE top_ups ADD COLUMN cvc_check TEXT COLLATE "C";
ALTER TABLE top_ups ADD COLUMN repeat_key BYTEA CHECK (length(repeat_key) = 32);
CREATE INDEX top_ups_order_of_client ON top_ups (client, repeat_key) WHERE repeat_key IS NOT NULL;
CREATE INDEX top_ups_order_of_card ON top_ups (fingerprint, repeat_key) WHERE repeat_key IS NOT NULL;

CREATE INDEX client_keys_revoked ON client_keys (client) WHERE revoked_at IS NOT NULL;
CREATE INDEX payment_method_bindings_revoked ON payment_method_bindings (client) WHERE revoked_at IS NOT NULL;
