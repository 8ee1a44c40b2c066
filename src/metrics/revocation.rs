//! How old revocation lists are.

use serde_json::{Value, json};

use crate::auth::RevocationList;
use crate::limits::CRL_LIFE_ALARM;

/// Most of its life is over and no newer list came.
pub fn is_list_ageing(list: &RevocationList, now: u64) -> bool {
    list.life_percent(now) >= CRL_LIFE_ALARM
}

/// The alarm, in words.
pub fn ageing_text(list: &RevocationList, now: u64) -> String {
    let (issuer, ends) = (&list.issuer_text, date(list.next_update));
    match list.life_percent(now) {
        101.. => format!("the revocation list of {issuer:?} ended at {ends}, and no newer one came"),
        percent => {
            format!("{percent} % of the life of the revocation list of {issuer:?} is over; it ends at {ends}")
        }
    }
}

/// For `/status`.
pub fn show_list(list: &RevocationList, now: u64) -> Value {
    json!({
        "issuer": list.issuer_text,
        "number": list.number_text(),
        "delta": list.is_delta(),
        "entries": list.len(),
        "this_update": date(list.this_update),
        "next_update": date(list.next_update),
        "life_percent": list.life_percent(now),
    })
}

fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| format!("second {seconds}"), |time| time.to_string())
}
