//! Reading the books: balances, entries, top-ups. Shared by the billing API, the admin pages and `verify`.
