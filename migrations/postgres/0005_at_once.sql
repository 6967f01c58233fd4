-- A batch in one statement, where several nodes write (src/ledger/writer/at_once.rs).

-- Ids for entries are taken in blocks: a block is nextval() and the 4,095 ids after it.
ALTER SEQUENCE entry_ids INCREMENT BY 4096;

-- The node's fencing token: a statement that was sent with an older one does nothing.
-- undelivered.entries is a JSON array of runs of ids, [first, last], from now on. Single ids, as before, are still read.
-- Nodes of schema 4 that still run cannot finish what a newer node leaves behind; a newer one does.
ALTER TABLE undelivered ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;
