//! Attached connection points of each site and their links.
//!
//! Pure: knows links as values of the caller. A site's connection points take strict turns; among the
//! links of one connection point, too. What a link can take now is asked of the caller.

use std::rc::Rc;

/// The links that one shard can use, by site.
pub struct Roster<L> {
    sites: Vec<Site<L>>,
}

struct Site<L> {
    points: Vec<Point<L>>,
    turn: usize,
}

struct Point<L> {
    name: Rc<str>,
    links: Vec<(u64, L)>,
    turn: usize,
}

impl<L> Roster<L> {
    /// A roster for `sites` sites, numbered from 0.
    pub fn new(sites: usize) -> Roster<L> {
        Roster { sites: (0..sites).map(|_| Site { points: Vec::new(), turn: 0 }).collect() }
    }

    /// A link of a connection point of `site` came up; `id` is unique among its links.
    pub fn attach(&mut self, site: usize, point: &str, id: u64, link: L) {
        let points = &mut self.sites[site].points;
        let place = points.iter().position(|held| &*held.name == point).unwrap_or_else(|| {
            points.push(Point { name: point.into(), links: Vec::new(), turn: 0 });
            points.len() - 1
        });
        points[place].links.push((id, link));
    }

    /// A link is gone. Gives it back if it was there.
    pub fn detach(&mut self, site: usize, id: u64) -> Option<L> {
        let site = &mut self.sites[site];
        let mut gone = None;
        for point in &mut site.points {
            if let Some(place) = point.links.iter().position(|(held, _)| *held == id) {
                gone = Some(point.links.remove(place).1);
            }
        }
        site.points.retain(|point| !point.links.is_empty());
        gone
    }

    /// The next link of `site` that `takes` a request, in turn, with the name of its connection point.
    /// Whoever takes none is asked once, and nobody behind the one that does.
    pub fn choose(&mut self, site: usize, mut takes: impl FnMut(&L) -> bool) -> Option<(&Rc<str>, &L)> {
        let site = &mut self.sites[site];
        let count = site.points.len();
        let (place, at) = (0..count).map(|step| (site.turn + step) % count).find_map(|place| {
            let point = &site.points[place];
            let links = point.links.len();
            let mut turns = (0..links).map(|step| (point.turn + step) % links);
            turns.find(|at| takes(&point.links[*at].1)).map(|at| (place, at))
        })?;
        site.turn = place + 1;
        site.points[place].turn = at + 1;
        let point = &site.points[place];
        Some((&point.name, &point.links[at].1))
    }

    /// Every link, with its site and the name of its connection point.
    pub fn links(&self) -> impl Iterator<Item = (usize, &str, &L)> {
        self.sites.iter().enumerate().flat_map(|(site, entry)| {
            entry
                .points
                .iter()
                .flat_map(move |point| point.links.iter().map(move |(_, link)| (site, &*point.name, link)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(links: &[(&str, u64)]) -> Roster<u64> {
        let mut roster = Roster::new(2);
        for (point, id) in links {
            roster.attach(0, point, *id, *id);
        }
        roster
    }

    #[test]
    fn connection_points_take_strict_turns_however_many_links_each_has() {
        let mut roster = roster(&[("a", 1), ("a", 2), ("a", 3), ("b", 4)]);
        let turns: Vec<u64> = (0..8).filter_map(|_| roster.choose(0, |_| true).map(|(_, id)| *id)).collect();
        assert_eq!(turns, [1, 4, 2, 4, 3, 4, 1, 4]);
    }

    #[test]
    fn a_link_that_takes_nothing_is_passed_over_and_a_site_never_served_by_another() {
        let mut roster = roster(&[("a", 1), ("b", 2)]);
        let turns: Vec<u64> =
            (0..3).filter_map(|_| roster.choose(0, |id| *id != 1).map(|(_, id)| *id)).collect();
        assert_eq!(turns, [2, 2, 2]);
        assert_eq!(roster.choose(0, |_| false), None);
        assert_eq!(roster.choose(1, |_| true), None);
    }

    #[test]
    fn every_link_is_asked_before_a_request_waits_and_none_twice() {
        let mut roster = roster(&[("a", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 5), ("b", 6)]);
        let mut asked = Vec::new();
        for _ in 0..6 {
            asked.clear();
            let found = roster.choose(0, |id| {
                asked.push(*id);
                false
            });
            assert_eq!(found, None);
            asked.sort();
            assert_eq!(asked, [1, 2, 3, 4, 5, 6]);
        }
        asked.clear();
        let found = roster.choose(0, |id| {
            asked.push(*id);
            *id == 5
        });
        assert_eq!((found.map(|(_, id)| *id), asked.last()), (Some(5), Some(&5)));
    }

    #[test]
    fn a_detached_link_is_never_chosen() {
        let mut roster = roster(&[("a", 1), ("b", 2), ("c", 3)]);
        roster.choose(0, |_| true);
        assert_eq!(roster.detach(0, 2), Some(2));
        assert_eq!(roster.detach(0, 2), None);
        let turns: Vec<u64> = (0..4).filter_map(|_| roster.choose(0, |_| true).map(|(_, id)| *id)).collect();
        assert!(turns.iter().all(|id| *id != 2), "{turns:?}");
        assert_eq!(roster.links().count(), 2);
    }
}
