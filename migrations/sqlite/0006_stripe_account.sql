-- Whose money the wallets are: the mode of Stripe, and the account, that this database charges in.

-- NULL: an earlier version has written this database, and nothing has been proven yet.
ALTER TABLE installation ADD COLUMN stripe_mode TEXT CHECK (stripe_mode IN ('simulated', 'test', 'live'));

-- Since when, in Unix microseconds, it charges in the account that it has now; NULL: it has never had another one.
ALTER TABLE installation ADD COLUMN account_since INTEGER;

-- 1: charged in an account that has been given up since. Nothing of it can be read, refunded or disputed from here. The newest
-- PaymentIntent that is not one of these proves which account the database belongs to.
ALTER TABLE top_ups ADD COLUMN former_account INTEGER NOT NULL DEFAULT 0 CHECK (former_account IN (0, 1));

-- Since when every look at Stripe has said that there is no such object; NULL: the last look did not say so.
ALTER TABLE stripe_events ADD COLUMN missing_since INTEGER;
