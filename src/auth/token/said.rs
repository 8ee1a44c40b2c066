//! What the connection points of one site said of tokens, as a gateway keeps it.
//!
//! Pure. Fetched keys count while a connection point that said them is attached, and a day longer: an issuer
//! may have taken a key back since, and nobody would tell. What was blocked stays blocked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Issuers, TokenIssuer, TokenMaterial};
use crate::limits::TOKEN_KEYS_KEPT_FOR;

/// See the file's head.
#[derive(Clone, Debug, Default)]
pub struct TokenWords {
    by_point: BTreeMap<Arc<str>, Word>,
}

/// Kept ── neither said again nor attached for a day ──▶ Blocked alone ── said again ──▶ Kept
#[derive(Clone, Debug)]
struct Word {
    /// The time at which it was said, by its connection point's clock; 0: its keys are gone, and it is news when
    /// it is said again.
    serial: u64,
    material: TokenMaterial,
    /// When its connection point last said it or was attached.
    confirmed: Instant,
}

impl TokenWords {
    /// A connection point says something. Whether it has to be read: it has not said this, or what came
    /// later, before.
    pub fn is_new(&mut self, point: &str, serial: u64, now: Instant) -> bool {
        let Some(word) = self.by_point.get_mut(point) else { return true };
        word.confirmed = now;
        word.serial < serial
    }

    /// Takes what is new. Whether it changes anything: one that starts anew says the same once more.
    pub fn take(&mut self, point: &Arc<str>, serial: u64, material: TokenMaterial, now: Instant) -> bool {
        let word = Word { serial, material, confirmed: now };
        let before = self.by_point.insert(point.clone(), word);
        before.is_none_or(|before| before.material != self.by_point[point].material)
    }

    /// Looks who is attached, and forgets the keys of those who have been gone for too long; gives those.
    pub fn look(&mut self, is_attached: impl Fn(&str) -> bool, now: Instant) -> Vec<Arc<str>> {
        let mut forgotten = Vec::new();
        for (point, word) in &mut self.by_point {
            if is_attached(point) {
                word.confirmed = now;
            } else if now.duration_since(word.confirmed) >= TOKEN_KEYS_KEPT_FOR
                && !word.material.keys.is_empty()
            {
                word.material.keys.clear();
                word.serial = 0;
                forgotten.push(point.clone());
            }
        }
        forgotten
    }

    /// These issuers, with the keys and blocked tokens of all.
    pub fn issuers(&self, entries: &[TokenIssuer]) -> Issuers {
        TokenMaterial::issuers(entries, self.by_point.values().map(|word| &word.material))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::token::TokenKey;

    const KEYS: &[u8] = include_bytes!("../../../fuzz/seeds/token/keys.json");
    const DAY: Duration = TOKEN_KEYS_KEPT_FOR;
    const MINUTE: Duration = Duration::from_secs(60);

    fn material() -> TokenMaterial {
        let keys = TokenKey::read_set(KEYS).unwrap();
        TokenMaterial { keys: [("directory".to_owned(), keys)].into(), blocked: vec!["GUID:7".to_owned()] }
    }

    fn keys(words: &TokenWords) -> usize {
        words.by_point.values().flat_map(|word| word.material.keys.values()).map(Vec::len).sum()
    }

    #[test]
    fn keys_are_forgotten_a_day_after_whoever_said_them_has_gone_and_blocked_tokens_are_not() {
        let begin = Instant::now();
        // When somebody looks, and whether it is attached then.
        type Looks<'l> = &'l [(Duration, bool)];
        let cases: [(&str, Looks<'_>, bool); 6] = [
            ("attached for days", &[(DAY, true), (2 * DAY, true), (3 * DAY, true)], true),
            ("gone for less than a day", &[(MINUTE, true), (DAY, false)], true),
            ("gone for a day since it said it", &[(DAY - MINUTE, false), (DAY, false)], false),
            ("gone for a day since it was there", &[(DAY, true), (2 * DAY, false)], false),
            ("gone twice", &[(DAY - MINUTE, false), (DAY - MINUTE, true), (DAY + MINUTE, false)], true),
            ("back, but too late", &[(DAY, false), (DAY + MINUTE, true)], false),
        ];
        for (case, looks, are_kept) in cases {
            let mut words = TokenWords::default();
            assert!(words.take(&"cp1".into(), 5, material(), begin));
            let forgotten: usize =
                looks.iter().map(|(after, there)| words.look(|_| *there, begin + *after).len()).sum();
            assert_eq!((keys(&words) > 0, forgotten == 0), (are_kept, are_kept), "{case}");
            assert!(words.issuers(&[]).is_blocked("guid:7"), "{case}");
        }
    }

    #[test]
    fn what_is_said_again_counts_from_then_on_and_again_when_it_was_forgotten() {
        let (begin, point) = (Instant::now(), Arc::<str>::from("cp1"));
        let mut words = TokenWords::default();
        assert!(words.is_new(&point, 5, begin) && words.take(&point, 5, material(), begin));
        assert!(!words.is_new(&point, 4, begin), "what was said before undoes nothing");
        assert!(!words.is_new(&point, 5, begin + DAY), "a second channel says the same");
        assert!(words.look(|_| false, begin + 2 * DAY - MINUTE).is_empty());
        assert!(!words.take(&point, 6, material(), begin + DAY), "it started anew and says the same");
        assert_eq!(words.look(|_| false, begin + 2 * DAY), ["cp1".into()]);
        assert!(words.look(|_| false, begin + 3 * DAY).is_empty(), "once");
        let back = begin + 3 * DAY;
        assert!(words.is_new(&point, 6, back) && words.take(&point, 6, material(), back));
        assert!(keys(&words) > 0);
    }

    #[test]
    fn what_one_connection_point_forgets_another_still_says() {
        let begin = Instant::now();
        let mut words = TokenWords::default();
        words.take(&"gone".into(), 5, material(), begin);
        words.take(&"there".into(), 5, material(), begin);
        let before = keys(&words);
        assert_eq!(words.look(|point| point == "there", begin + DAY), ["gone".into()]);
        assert_eq!(keys(&words) * 2, before);
    }
}
