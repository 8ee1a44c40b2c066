//! A bar for what takes a while: on a terminal only, on standard error, gone when it is done.

use indicatif::{ProgressBar, ProgressStyle};

/// Fewer than this are done before anybody looks.
const COUNT_MIN: usize = 100;

/// For `count` steps of what `doing` names.
pub fn bar(count: usize, doing: &'static str) -> ProgressBar {
    if count < COUNT_MIN {
        return ProgressBar::hidden();
    }
    // Drawn to standard error, and not at all where that is no terminal.
    let bar = ProgressBar::new(count as u64).with_message(doing);
    match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
