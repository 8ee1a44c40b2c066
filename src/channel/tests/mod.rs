//! Claims about whole channels; hostile rows; seeded simulations.

mod claims;
mod hostile;
mod properties;
mod seeds;
