-- A new token of the card that founded a wallet leads there, once the bank has confirmed the card again.

-- One look at a bank, which charges nothing: a SetupIntent. The row is older than the call, and Stripe's idempotency key derives
-- from its id, so that it is asked once. Removed when no limit counts it any more.
CREATE TABLE card_checks (
    id           TEXT    PRIMARY KEY,
    attempt      TEXT    NOT NULL,         -- the attempt to pay that asks (top_ups), while it is open
    pm_hash      BLOB    NOT NULL CHECK (length(pm_hash) = 32),
    fingerprint  TEXT    NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('asked', 'passed', 'failed', 'unsaid')),
    setup_intent TEXT,
    client       INTEGER REFERENCES clients (id),   -- where it has led
    asked_at     INTEGER NOT NULL,
    ended_at     INTEGER
) STRICT, WITHOUT ROWID;
-- One at a time for a card, on whichever node, so that what is counted before the next one cannot change.
CREATE UNIQUE INDEX card_checks_open ON card_checks (fingerprint) WHERE state = 'asked';
CREATE INDEX card_checks_fingerprint ON card_checks (fingerprint, asked_at);
CREATE INDEX card_checks_asked ON card_checks (asked_at);

-- What the bank said of the CVC when a founding token was charged: pass, fail, …, or none; NULL: nobody has asked Stripe yet. A wallet that
-- somebody has founded with the number alone is nobody's to be led to.
ALTER TABLE top_ups ADD COLUMN cvc_check TEXT;

-- SHA-256 of the Idempotency-Key alone: whether a wallet, or a card, has used it, whoever presented it.
ALTER TABLE top_ups ADD COLUMN repeat_key BLOB CHECK (length(repeat_key) = 32);
CREATE INDEX top_ups_order_of_client ON top_ups (client, repeat_key) WHERE repeat_key IS NOT NULL;
CREATE INDEX top_ups_order_of_card ON top_ups (fingerprint, repeat_key) WHERE repeat_key IS NOT NULL;

-- Whether a wallet is closed to its cards.
CREATE INDEX client_keys_revoked ON client_keys (client) WHERE revoked_at IS NOT NULL;
CREATE INDEX payment_method_bindings_revoked ON payment_method_bindings (client) WHERE revoked_at IS NOT NULL;
