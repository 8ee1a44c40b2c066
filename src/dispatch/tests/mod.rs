//! Claims about handshakes that wait, about the hellos that say who they are, about what a proxy says
//! before them, and about origins that stand for one another.

mod client_hello;
mod handshakes;
mod origins;
mod preface;
