//! Recomputes the books.
