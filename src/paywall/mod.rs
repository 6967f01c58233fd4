//! Decides and settles a paid request.
