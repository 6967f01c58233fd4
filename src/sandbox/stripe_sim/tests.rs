//! The simulator over a real socket.
