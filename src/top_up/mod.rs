//! From a card charge to credit.
