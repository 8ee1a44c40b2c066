//! What both roles need to tell of requests: lines with a bound on their number, and the access log.
//!
//! What is told stands in `gateway/record.rs` and `connector/record.rs`.

pub mod access;
mod line;
mod quota;

pub use line::path;
pub use quota::Quota;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::limits::LOG_TEXT_SIZE_MAX;
use crate::shard::Shard;

/// Lines of one kind on one shard: as many as the quota admits, and the number of the others.
pub struct Limited {
    quota: RefCell<Quota>,
    is_counting: Cell<bool>,
    /// What the line with the number says.
    summary: &'static str,
}

impl Limited {
    /// Lines whose left-out ones are summed up in a line that says `summary`.
    pub fn new(summary: &'static str) -> Rc<Limited> {
        Rc::new(Limited { quota: RefCell::default(), is_counting: Cell::new(false), summary })
    }

    /// Whether one more line may be written now. If not, it is counted, and the count said soon.
    pub fn admits(self: &Rc<Self>, shard: &Rc<Shard>) -> bool {
        if self.quota.borrow_mut().admit(shard.now()) {
            return true;
        }
        if !self.is_counting.replace(true) {
            let (lines, shard) = (self.clone(), shard.clone());
            let index = shard.index;
            shard.clone().spawn("count lines", async move {
                shard.sleep(SAY_EVERY).await;
                lines.is_counting.set(false);
                let count = lines.quota.borrow_mut().take_left_out();
                tracing::info!(count, shard = index, "{}", lines.summary);
            });
        }
        false
    }
}

/// A text that a peer may have chosen, no longer than a log line can bear.
pub fn bounded(mut text: String) -> String {
    if text.len() > LOG_TEXT_SIZE_MAX {
        text.truncate(text.floor_char_boundary(LOG_TEXT_SIZE_MAX));
        text.push('…');
    }
    text
}

/// Says once what is wrong, and once that it is not any more; `told` is what was said last, empty: nothing.
pub fn tell_once(told: &mut String, trouble: Option<String>) {
    match trouble {
        Some(text) if *told != text => {
            tracing::error!("{text}");
            *told = text;
        }
        Some(_) => {}
        None if told.is_empty() => {}
        None => {
            tracing::info!("no longer: {told}");
            told.clear();
        }
    }
}

/// How often the number of lines left out is said.
const SAY_EVERY: Duration = Duration::from_secs(1);
