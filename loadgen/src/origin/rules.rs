//! How the origin answers when a request says nothing else: delays, holds, and faults on demand.
//!
//! Chance comes from a seed, one stream for each connection: the same run makes the same faults.

use crate::random::Random;
use std::time::Duration;

/// What goes wrong with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset before a byte of the answer.
    Reset,
    /// Nothing more is read or answered, and the connection stays.
    Stall,
    /// The connection is closed before a byte of the answer.
    Close,
    /// The connection is closed in the middle of the answer's body.
    Cut,
    /// Bytes that are no HTTP come instead of an answer, then the connection is closed.
    Garbage,
}

/// All of them, by name.
pub const FAULTS: [(&str, Fault); 5] = [
    ("reset", Fault::Reset),
    ("stall", Fault::Stall),
    ("close", Fault::Close),
    ("cut", Fault::Cut),
    ("garbage", Fault::Garbage),
];

impl Fault {
    /// The fault of this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        FAULTS.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, fault)| *fault)
    }
}

/// One fault and how likely it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likely {
    fault: Fault,
    probability: f64,
}

impl Likely {
    /// `KIND=PROBABILITY`. Errors: a text for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names = || FAULTS.map(|(name, _)| name).join(", ");
        let (name, value) = text.split_once('=').ok_or("expected KIND=PROBABILITY")?;
        let fault =
            Fault::named(name.as_bytes()).ok_or_else(|| format!("{name:?} is none of {}", names()))?;
        let probability = value
            .parse()
            .ok()
            .filter(|value| (0.0..=1.0).contains(value))
            .ok_or_else(|| format!("{value:?} is no probability between 0 and 1"))?;
        Ok(Self { fault, probability })
    }
}

/// A time, or any time between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    least: Duration,
    most: Duration,
}

impl Span {
    /// `MS` or `MS..MS`. Errors: a text for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let millis = |text: &str| {
            let value: f64 = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)?;
            Duration::try_from_secs_f64(value / 1000.0).ok()
        };
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        match (millis(least), millis(most)) {
            (Some(least), Some(most)) if least <= most => Ok(Self { least, most }),
            (Some(_), Some(_)) => Err("the second time must not be below the first".into()),
            _ => Err("expected MS or MS..MS".into()),
        }
    }

    fn choose(self, chance: &mut Random) -> Duration {
        if self.least == self.most {
            return self.least;
        }
        self.least + (self.most - self.least).mul_f64(chance.unit())
    }
}

/// What the flags say about every answer.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Before every answer.
    pub delay: Span,
    /// Before the answer to a notification request, when it says nothing else.
    pub hold: Span,
    /// What goes wrong.
    pub faults: Vec<Likely>,
    /// Where chance begins.
    pub seed: u64,
}

impl Rules {
    /// How long an answer waits.
    pub fn delay(&self, chance: &mut Random) -> Duration {
        self.delay.choose(chance)
    }

    /// How long a notification request is held.
    pub fn hold(&self, chance: &mut Random) -> Duration {
        self.hold.choose(chance)
    }

    /// What goes wrong with this answer.
    pub fn fault(&self, chance: &mut Random) -> Option<Fault> {
        if self.faults.is_empty() {
            return None;
        }
        let mut part = chance.unit();
        for likely in &self.faults {
            if part < likely.probability {
                return Some(likely.fault);
            }
            part -= likely.probability;
        }
        None
    }

    /// Whether the probabilities together are one. Errors: a text for the user.
    pub fn check(&self) -> Result<(), String> {
        let sum: f64 = self.faults.iter().map(|likely| likely.probability).sum();
        if sum <= 1.0 { Ok(()) } else { Err(format!("the probabilities of --fault are {sum} together")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_times_in_order() {
        let millis = Duration::from_millis;
        for (text, span) in [
            ("5", Some((millis(5), millis(5)))),
            ("5..20", Some((millis(5), millis(20)))),
            ("0.5", Some((Duration::from_micros(500), Duration::from_micros(500)))),
            ("20..5", None),
            ("-1", None),
            ("x", None),
            ("1..", None),
        ] {
            assert_eq!(Span::parse(text).ok(), span.map(|(least, most)| Span { least, most }), "{text}");
        }
    }

    #[test]
    fn faults_come_as_often_as_they_are_likely() {
        let rules = Rules {
            faults: vec![Likely::parse("reset=0.1").unwrap(), Likely::parse("garbage=0.2").unwrap()],
            ..Rules::default()
        };
        let mut chance = Random::new(7, 1);
        let drawn: Vec<_> = (0..10_000).map(|_| rules.fault(&mut chance)).collect();
        let count = |fault| drawn.iter().filter(|found| **found == fault).count();
        assert!((900..1100).contains(&count(Some(Fault::Reset))), "{}", count(Some(Fault::Reset)));
        assert!((1850..2150).contains(&count(Some(Fault::Garbage))), "{}", count(Some(Fault::Garbage)));
        let mut again = Random::new(7, 1);
        assert!(
            drawn.iter().all(|found| *found == rules.fault(&mut again)),
            "the same seed, the same faults"
        );
    }

    #[test]
    fn what_is_no_fault_is_refused() {
        for text in ["reset", "reset=2", "reset=-0.1", "reset=nan", "burn=0.1", "=0.1"] {
            assert!(Likely::parse(text).is_err(), "{text}");
        }
        let likely = Likely::parse("stall=0.6").unwrap();
        assert!(Rules { faults: vec![likely, likely], ..Rules::default() }.check().is_err());
    }

    #[test]
    fn a_span_is_used_from_end_to_end() {
        let span = Span::parse("10..20").unwrap();
        let mut chance = Random::new(1, 1);
        let drawn: Vec<_> = (0..1000).map(|_| span.choose(&mut chance).as_micros()).collect();
        assert!(drawn.iter().all(|micros| (10_000..20_000).contains(micros)));
        assert!(drawn.iter().min() < Some(&10_200) && drawn.iter().max() > Some(&19_800));
    }
}
