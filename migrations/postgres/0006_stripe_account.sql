-- The same as on SQLite (migrations/sqlite/0006_stripe_account.sql), which says what each column means.

ALTER TABLE installation ADD COLUMN stripe_mode TEXT CHECK (stripe_mode IN ('simulated', 'test', 'live'));
ALTER TABLE installation ADD COLUMN account_since BIGINT;
ALTER TABLE top_ups ADD COLUMN former_account BIGINT NOT NULL DEFAULT 0 CHECK (former_account IN (0, 1));
ALTER TABLE stripe_events ADD COLUMN missing_since BIGINT;
