//! See the folder's documentation.
