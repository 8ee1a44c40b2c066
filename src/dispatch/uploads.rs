//! Which origin holds an upload session, so that its packets go to the one that began it.
//!
//! Pure. BITS (MC-BUP) keeps a session on the server that acknowledged its first packet, and names it by a GUID in
//! `BITS-Session-Id`. Only origins put entries in here. What was forgotten, or is another connection point's, goes
//! where `Origins::prefer` sends it: while nothing is down, to the same.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::limits::{UPLOADS_REMEMBERED_FOR, UPLOADS_REMEMBERED_MAX};

/// A session of one group of origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Upload {
    group: usize,
    id: u128,
}

impl Upload {
    /// Reads the value of `BITS-Session-Id`; `None` where it is no GUID: such sessions are not remembered.
    pub fn new(group: usize, value: &[u8]) -> Option<Upload> {
        let inner = value.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
        let mut parts = inner.unwrap_or(value).split(|octet| *octet == b'-');
        let mut id = 0;
        for size in GUID_PARTS {
            let part = parts.next().filter(|part| part.len() == size)?;
            for octet in part {
                id = id << 4 | u128::from(char::from(*octet).to_digit(16)?);
            }
        }
        parts.next().is_none().then_some(Upload { group, id })
    }

    /// The number of the group.
    pub fn group(&self) -> usize {
        self.group
    }

    /// The same session, where its group has another number.
    #[must_use]
    pub fn in_group(self, group: usize) -> Upload {
        Upload { group, ..self }
    }
}

/// Hexadecimal digits between the dashes of a GUID.
const GUID_PARTS: [usize; 5] = [8, 4, 4, 4, 12];

/// The latest sessions, at most [`UPLOADS_REMEMBERED_MAX`]. They are kept in two halves: when the young one is full
/// or has its age, it becomes the old one, and what is in neither is forgotten. Only what origins acknowledge makes a
/// session young: one whose origin never comes back is free to begin anew elsewhere at last.
#[derive(Debug)]
pub struct Uploads {
    /// To the place of the origin in the group.
    young: HashMap<Upload, u8>,
    old: HashMap<Upload, u8>,
    /// Since when the young half has been filled.
    since: Option<Instant>,
    half: usize,
    age: Duration,
}

impl Default for Uploads {
    fn default() -> Uploads {
        Uploads::with_room_for(UPLOADS_REMEMBERED_MAX, UPLOADS_REMEMBERED_FOR)
    }
}

impl Uploads {
    fn with_room_for(count: usize, age: Duration) -> Uploads {
        Uploads { young: HashMap::new(), old: HashMap::new(), since: None, half: count / 2, age }
    }

    /// Place in its group of the origin that has this session.
    pub fn find(&mut self, upload: &Upload, now: Instant) -> Option<usize> {
        self.grow_old(now);
        let place = self.young.get(upload).or_else(|| self.old.get(upload));
        place.map(|place| usize::from(*place))
    }

    /// The origin at `place` has acknowledged a packet of this session. Whether others should hear of it: at first, and
    /// once in each half, for what they do not hear of they forget.
    pub fn remember(&mut self, upload: Upload, place: usize, now: Instant) -> bool {
        self.grow_old(now);
        let Ok(place) = u8::try_from(place) else { return false };
        let is_news = self.young.get(&upload) != Some(&place);
        self.insert(upload, place, now);
        is_news
    }

    /// What is remembered, where `find` gives the group and the place that an origin has now which had these before.
    /// Sessions of origins that are gone are forgotten.
    #[must_use]
    pub fn by_other_groups(&self, find: impl Fn(usize, usize) -> Option<(usize, usize)>) -> Uploads {
        let other = |half: &HashMap<Upload, u8>| {
            let entry = |(upload, place): (&Upload, &u8)| {
                let (group, place) = find(upload.group, usize::from(*place))?;
                Some((Upload { group, ..*upload }, u8::try_from(place).ok()?))
            };
            half.iter().filter_map(entry).collect()
        };
        Uploads { young: other(&self.young), old: other(&self.old), ..*self }
    }

    /// How many are remembered.
    pub fn count(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn grow_old(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let age = now.saturating_duration_since(since);
        if age >= self.age {
            let young = std::mem::take(&mut self.young);
            // What was young for the time of both has been forgotten, too.
            self.old = if age >= self.age * 2 { HashMap::new() } else { young };
            self.since = (!self.old.is_empty()).then_some(now);
        }
    }

    fn insert(&mut self, upload: Upload, place: u8, now: Instant) {
        if self.young.len() >= self.half && !self.young.contains_key(&upload) {
            self.old = std::mem::take(&mut self.young);
            self.since = None;
        }
        self.since.get_or_insert(now);
        self.old.remove(&upload);
        self.young.insert(upload, place);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn upload(number: u32) -> Upload {
        Upload::new(0, format!("{{{number:08x}-0000-0000-0000-000000000000}}").as_bytes()).unwrap()
    }

    #[test]
    fn a_session_is_named_by_a_guid_in_any_spelling_and_by_nothing_else() {
        let right = Upload::new(3, b"{7df0354d-249b-430f-820d-3d2a9bef4931}").unwrap();
        assert_eq!(Upload::new(3, b"7DF0354D-249B-430F-820D-3D2A9BEF4931"), Some(right));
        assert_ne!(Upload::new(4, b"7DF0354D-249B-430F-820D-3D2A9BEF4931"), Some(right), "of its own group");
        let wrong: [&[u8]; 8] = [
            b"",
            b"{}",
            b"----",
            b"{7df0354d-249b-430f-820d-3d2a9bef493}",
            b"{7df0354d-249b-430f-820d-3d2a9bef4931}-",
            b"{7df0354d249b430f820d3d2a9bef4931}",
            b"{7df0354d-249b-430f-820d-3d2a9bef493g}",
            b"{+df0354d-249b-430f-820d-3d2a9bef4931}",
        ];
        for value in wrong {
            assert_eq!(Upload::new(3, value), None, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn a_session_stays_where_it_was_begun_until_another_origin_acknowledges_it() {
        let (mut uploads, now) = (Uploads::default(), Instant::now());
        assert_eq!(uploads.find(&upload(1), now), None);
        assert!(uploads.remember(upload(1), 2, now));
        assert!(!uploads.remember(upload(1), 2, now), "known");
        assert_eq!(uploads.find(&upload(1), now), Some(2));
        assert!(uploads.remember(upload(1), 0, now));
        assert_eq!((uploads.find(&upload(1), now), uploads.count()), (Some(0), 1));
    }

    #[test]
    fn sessions_go_along_when_groups_have_other_numbers_and_end_with_their_origin() {
        let (mut uploads, now) = (Uploads::default(), Instant::now());
        // Of group 0: the origin at place 1 is gone, those behind it move up, and the group has another number.
        (0..3).for_each(|place| assert!(uploads.remember(upload(place), place as usize, now)));
        let find = |group, place: usize| match (group, place) {
            (0, 1) => None,
            (0, place) => Some((5, place.min(1))),
            other => panic!("{other:?} was never there"),
        };
        let mut next = uploads.by_other_groups(find);
        let now_in = |number| Upload { group: 5, ..upload(number) };
        let found: Vec<_> = (0..3).map(|number| next.find(&now_in(number), now)).collect();
        assert_eq!((found, next.count()), (vec![Some(0), None, Some(1)], 2));
    }

    #[test]
    fn a_session_is_forgotten_some_time_after_its_last_packet() {
        let (age, begin) = (Duration::from_secs(100), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut uploads = Uploads::with_room_for(8, age);
        uploads.remember(upload(1), 1, at(0));
        uploads.remember(upload(2), 1, at(0));
        // Acknowledged now and then it lives on; asked for alone it does not.
        let rows = [(99, false), (150, true), (240, false), (330, true), (420, false)];
        for (seconds, is_news) in rows {
            assert_eq!(uploads.remember(upload(1), 1, at(seconds)), is_news, "once in each half: {seconds}");
            uploads.find(&upload(2), at(seconds));
        }
        assert_eq!(uploads.find(&upload(2), at(421)), None);
        assert_eq!(uploads.find(&upload(1), at(519)), Some(1), "not before its time");
        assert_eq!(uploads.find(&upload(1), at(621)), None, "silent for twice the time");
        assert_eq!(uploads.count(), 0);
    }

    #[test]
    fn who_hears_of_a_session_as_often_as_it_is_news_remembers_it_as_long_as_who_tells() {
        let (age, begin) = (Duration::from_secs(100), Instant::now());
        let mut sees = Uploads::with_room_for(8, age);
        let mut hears = Uploads::with_room_for(8, age);
        for seconds in (0..2_000).step_by(7) {
            let now = begin + Duration::from_secs(seconds);
            if sees.remember(upload(1), 1, now) {
                hears.remember(upload(1), 1, now);
            }
            assert_eq!(hears.find(&upload(1), now), Some(1), "{seconds}");
        }
    }

    #[test]
    fn the_number_of_sessions_is_bounded_and_those_in_use_are_kept() {
        let (mut uploads, now) = (Uploads::with_room_for(8, Duration::from_secs(100)), Instant::now());
        uploads.remember(upload(0), 3, now);
        for number in 1..200 {
            uploads.remember(upload(number), 1, now);
            assert_eq!(uploads.find(&upload(0), now), Some(3), "{number}");
            uploads.remember(upload(0), 3, now);
            assert!(uploads.count() <= 8);
        }
        assert_eq!(uploads.find(&upload(1), now), None);
    }
}
