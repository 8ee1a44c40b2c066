//! Claims about whole channels.
