//! Claims about handshakes that wait, and about the hellos that say who they are.

mod client_hello;
mod handshakes;
