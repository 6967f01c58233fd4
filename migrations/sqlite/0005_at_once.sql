-- undelivered.entries is a JSON array of runs of ids, [first, last], from now on. Single ids, as before, are still read.
-- The tables stay as they are: what PostgreSQL needs for a batch in one statement, nobody needs where there is one writer.
SELECT 1;
