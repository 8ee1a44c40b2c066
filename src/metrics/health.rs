//! One word for how a role is, and why it is not better.

use serde_json::{Value, json};

use super::certificates::Certificate;

/// Gathers what is wrong.
#[derive(Debug, Default)]
pub struct Health {
    is_down: bool,
    reasons: Vec<String>,
}

impl Health {
    /// It works, but not as it should.
    pub fn suffers(&mut self, reason: impl Into<String>) {
        self.reasons.push(reason.into());
    }

    /// Nothing it is there for can be done.
    pub fn is_down(&mut self, reason: impl Into<String>) {
        self.is_down = true;
        self.reasons.insert(0, reason.into());
    }

    /// A certificate in use ends at `ends`, in seconds since 1970, as `now` is.
    fn knows_certificate(&mut self, file: &str, ends: i64, now: i64) {
        let days = (ends - now).div_euclid(24 * 3600);
        if ends <= now {
            self.suffers(format!("the certificate {file} has expired"));
        } else if days < WARNED_DAYS {
            self.suffers(format!("the certificate {file} expires in {days} days"));
        }
    }

    /// Those of them that have ended or end soon.
    pub fn knows_certificates(&mut self, certificates: &[Certificate], now: i64) {
        for (_, file, ends) in certificates {
            self.knows_certificate(file, *ends, now);
        }
    }

    /// `Healthy`, `Degraded` or `Down`.
    pub fn word(&self) -> &'static str {
        match (self.is_down, self.reasons.is_empty()) {
            (true, _) => "Down",
            (false, false) => "Degraded",
            (false, true) => "Healthy",
        }
    }

    /// What is wrong, in words; null when nothing is.
    pub fn reason(&self) -> Value {
        if self.reasons.is_empty() { Value::Null } else { json!(self.reasons.join("; ")) }
    }
}

/// Time enough for somebody to renew a certificate after a holiday.
const WARNED_DAYS: i64 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_that_of_the_worst() {
        let mut health = Health::default();
        assert_eq!((health.word(), health.reason()), ("Healthy", Value::Null));
        health.suffers("one is slow");
        assert_eq!((health.word(), health.reason()), ("Degraded", json!("one is slow")));
        health.is_down("none is left");
        assert_eq!((health.word(), health.reason()), ("Down", json!("none is left; one is slow")));
    }

    #[test]
    fn a_certificate_is_named_two_weeks_before_its_end() {
        let day = 24 * 3600;
        let rows = [
            (20 * day, None),
            (14 * day, None),
            (14 * day - 1, Some("the certificate a.pem expires in 13 days")),
            (0, Some("the certificate a.pem has expired")),
            (-day, Some("the certificate a.pem has expired")),
        ];
        for (left, reason) in rows {
            let mut health = Health::default();
            health.knows_certificate("a.pem", 1_000_000 + left, 1_000_000);
            assert_eq!(health.reason().as_str(), reason, "{left}");
        }
    }
}
