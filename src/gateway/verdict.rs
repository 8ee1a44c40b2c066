//! Whether a client's certificate is good for a site: by what is remembered of its chain, or judged
//! from the beginning.

use std::rc::Rc;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::gate::{self, Gate};
use super::request::Request;
use crate::auth::{self, Asked};
use crate::limits;
use crate::logs;
use crate::refusal::{Refusal, Refused};

/// A verdict, and the subject of the certificate, trusted or not; for logs.
pub type Verdict = (Result<(), Refused>, Option<Rc<str>>);

/// Judges the chain that a client proved to hold the key of, for the site of this request and under its
/// settings.
pub fn judge(gate: &Gate, chain: &[CertificateDer<'_>], request: &Request) -> Verdict {
    let now = UnixTime::now();
    let asked = Asked::new(chain, request.site, request.settings.epoch);
    if let Some(subject) = gate.verdicts.borrow_mut().find(&asked, now) {
        gate::add(&gate.counters().verdicts_known, 1);
        return (Ok(()), Some(subject));
    }
    let leaf = chain.first().map_or(&[][..], |leaf| leaf.as_ref());
    if !leaf.is_empty() {
        gate::add(&gate.counters().verdicts_new, 1);
    }
    match auth::judge(chain, &request.settings.sites[request.site].trust, now) {
        Ok(facts) if leaf.len() > LEAF_SIZE_MAX => {
            let cause = format!("the certificate has {} octets, more than {LEAF_SIZE_MAX}", leaf.len());
            (Err(Refused::new(Refusal::UntrustedCertificate, cause)), Some(bounded(facts.subject)))
        }
        Ok(facts) => {
            if facts.is_unchecked {
                gate::add(&gate.counters().verdicts_unchecked, 1);
            }
            let subject = bounded(facts.subject);
            gate.verdicts.borrow_mut().remember(asked, &subject, facts.valid);
            (Ok(()), Some(subject))
        }
        Err(fault) => {
            let refused = Refused::new(fault.refusal(), logs::bounded(fault.to_string()));
            (Err(refused), auth::subject_of(leaf).map(bounded))
        }
    }
}

/// Why somebody whose chain was accepted for a site is not let in any more. Rarely more than a look at the
/// lists: only whom one of them may name is judged again.
pub fn shut_out(gate: &Gate, chain: &[CertificateDer<'_>], site: usize) -> Option<Refused> {
    let in_force = gate.in_force();
    let trust = &in_force.sites.get(site)?.trust;
    if !auth::may_be_shut_out(chain, trust) {
        return None;
    }
    let fault = auth::judge(chain, trust, UnixTime::now()).err()?;
    Some(Refused::new(fault.refusal(), logs::bounded(fault.to_string())))
}

fn bounded(subject: String) -> Rc<str> {
    logs::bounded(subject).into()
}

/// A certificate that fits an IDENTITY frame beside the address.
const LEAF_SIZE_MAX: usize = limits::IDENTITY_SIZE_MAX - 64;
