//! What reloads came to, for operators.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::metrics::{Health, Page};

/// See the file's head.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By place in [`OUTCOMES`].
    counts: [u64; OUTCOMES.len()],
    /// When other settings were put in force last.
    applied_at: Option<jiff::Timestamp>,
    /// When files were judged last, because they changed or somebody asked.
    judged_at: Option<jiff::Timestamp>,
    /// What is wrong with what the files hold that the settings in force name; nothing when that is in force. It may
    /// become right by itself.
    error: String,
    /// What is wrong with other settings; until somebody asks again.
    error_of_others: String,
}

/// Whether somebody asked for a look, and what the settings file held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nobody did, so it was not read.
    No,
    /// The settings in force.
    ForTheSame,
    /// Others.
    ForOthers,
}

const OUTCOMES: [&str; 4] = ["applied", "unchanged", "refused", "handed_over"];

#[derive(Clone, Copy)]
enum Count {
    Applied,
    Unchanged,
    Refused,
    HandedOver,
}

impl Reloads {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the files hold is in force already; whoever asked is told.
    pub(super) fn unchanged(&self, is_asked: bool) {
        let mut state = self.state();
        if is_asked || !state.error.is_empty() {
            state.settle(is_asked);
            state.count(Count::Unchanged);
            tracing::info!("reloaded: nothing has changed, what is in force stays so");
        }
    }

    /// Other settings are in force, or what other files hold.
    pub(super) fn applied(&self, what: &str, is_asked: bool) {
        let mut state = self.state();
        state.settle(is_asked);
        state.count(Count::Applied);
        state.applied_at = state.judged_at;
        tracing::info!("reloaded: {what}");
    }

    /// What the files hold cannot be put in force. Says so once, not at each look, and whenever somebody asked.
    pub(super) fn wrong(&self, how: &str, asked: Asked) {
        let mut state = self.state();
        if asked == Asked::No && state.error == how {
            return;
        }
        state.settle(asked != Asked::No);
        state.count(Count::Refused);
        let error = if asked == Asked::ForOthers { &mut state.error_of_others } else { &mut state.error };
        how.clone_into(error);
        tracing::error!("not reloaded, what is in force stays so: {how}");
    }

    /// Another process has taken this one's place.
    pub(super) fn handed_over(&self, pid: u32) {
        let mut state = self.state();
        state.settle(true);
        state.count(Count::HandedOver);
        tracing::info!(pid, "reloaded: another process has taken this one's place");
    }

    /// Whether files are wrong that nobody would ask for again.
    pub(super) fn may_become_right(&self) -> bool {
        !self.state().error.is_empty()
    }

    /// What operators should know of.
    pub fn tell_health(&self, health: &mut Health) {
        let error = self.state().error();
        if !error.is_empty() {
            health.suffers(format!("not reloaded: {error}"));
        }
    }

    /// For `/status`.
    pub fn show(&self) -> Value {
        let state = self.state();
        let text = |at: &Option<jiff::Timestamp>| at.map(|at| at.to_string());
        let counts: serde_json::Map<_, _> = OUTCOMES
            .iter()
            .zip(state.counts)
            .map(|(name, count)| ((*name).to_owned(), count.into()))
            .collect();
        let mut shown = Value::from(counts);
        shown["last_applied"] = text(&state.applied_at).into();
        shown["last"] = text(&state.judged_at).into();
        let error = state.error();
        shown["error"] = if error.is_empty() { Value::Null } else { json!(error) };
        shown
    }

    /// For `/metrics`; `prefix` is that of the role.
    pub fn describe(&self, page: &mut Page, prefix: &str) {
        let state = self.state();
        let help = "Reloads of settings and of the files that they name, by what they came to.";
        let mut rows = page.counter(&format!("{prefix}_reloads_total"), help);
        for (name, count) in OUTCOMES.iter().zip(state.counts) {
            rows.count(&[("outcome", name)], count);
        }
        let help = "1 when the files hold what could not be put in force, and what was before is.";
        let failing = u64::from(!state.error().is_empty());
        page.gauge(&format!("{prefix}_reload_failing"), help).count(&[], failing);
    }
}

impl State {
    fn count(&mut self, what: Count) {
        self.counts[what as usize] += 1;
        self.judged_at = Some(jiff::Timestamp::now());
    }

    /// Everything that the settings in force name is right; who asked has other settings judged, too.
    fn settle(&mut self, is_asked: bool) {
        self.error.clear();
        if is_asked {
            self.error_of_others.clear();
        }
    }

    fn error(&self) -> String {
        let both = [&*self.error_of_others, &*self.error];
        both.into_iter().filter(|error| !error.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_counted_once_and_told_until_it_is_right() {
        let reloads = Reloads::default();
        let counts = || OUTCOMES.map(|name| reloads.show()[name].as_u64());
        reloads.unchanged(false);
        assert_eq!(counts(), [Some(0); 4], "nobody asked");
        reloads.unchanged(true);
        reloads.applied("limits", true);
        reloads.wrong("a line", Asked::No);
        reloads.wrong("a line", Asked::No);
        assert!(reloads.may_become_right());
        assert_eq!(counts(), [1, 1, 1, 0].map(Some));
        let mut health = Health::default();
        reloads.tell_health(&mut health);
        assert_eq!(health.reason(), "not reloaded: a line");
        let mut page = Page::default();
        reloads.describe(&mut page, "cmg_gateway");
        let text = page.text();
        assert!(text.contains("cmg_gateway_reloads_total{outcome=\"refused\"} 1\n"), "{text}");
        assert!(text.contains("cmg_gateway_reload_failing 1\n"), "{text}");
        // The file as it was before.
        reloads.unchanged(false);
        assert!(reloads.show()["error"].is_null() && !reloads.may_become_right());
        reloads.wrong("a line", Asked::ForTheSame);
        reloads.wrong("a line", Asked::ForTheSame);
        assert_eq!(counts(), [1, 2, 3, 0].map(Some), "who asks is told");
        assert!(reloads.may_become_right());
        reloads.unchanged(false);
        assert!(reloads.show()["error"].is_null());
    }

    #[test]
    fn what_somebody_asked_for_is_wrong_until_somebody_asks_again() {
        let reloads = Reloads::default();
        reloads.wrong("others", Asked::ForOthers);
        assert!(!reloads.may_become_right(), "of a file that nobody has asked to be read again");
        reloads.wrong("a file", Asked::No);
        assert_eq!(reloads.show()["error"], "others; a file");
        reloads.applied("what that file holds", false);
        reloads.unchanged(false);
        assert_eq!(reloads.show()["error"], "others");
        reloads.unchanged(true);
        assert!(reloads.show()["error"].is_null());
        reloads.wrong("others", Asked::ForOthers);
        reloads.applied("others", true);
        assert!(reloads.show()["error"].is_null());
    }
}
