//! By what the ledger's entries name what was sold: numbers, which it gives once and for all.

/// A route's number in the ledger: the row of its name, given once and for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteNumber(i64);

/// A price list's number in the ledger: the row of all these prices together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListNumber(i64);

impl RouteNumber {
    /// The number of a row in `routes`.
    #[must_use]
    pub const fn new(row: i64) -> Self {
        Self(row)
    }

    /// For a column.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl ListNumber {
    /// The number of a row in `price_lists`.
    #[must_use]
    pub const fn new(row: i64) -> Self {
        Self(row)
    }

    /// For a column.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// By what an entry names what was sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Booking {
    /// The route.
    pub route: RouteNumber,
    /// The prices that were in force.
    pub list: ListNumber,
}
