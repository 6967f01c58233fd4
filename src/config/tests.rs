//! Tables of files and their problems.
