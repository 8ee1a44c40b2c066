//! Claims about handshakes that wait, about the hellos that say who they are, and about what a proxy says
//! before them.

mod client_hello;
mod handshakes;
mod preface;
