//! Whether a client's token is good for what it asks: by what is remembered of it, or judged from the
//! beginning; and who is cut when a token is blocked.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};

use ring::digest;
use rustls::pki_types::UnixTime;
use slab::Slab;

use super::gate::{self, Gate, InForce};
use super::request::Answer;
use crate::auth::token::{self, DirectoryFault, TokenAsked, TokenFacts, TokenFault, TokenVerdicts, bearer};
use crate::dispatch::ClientKey;
use crate::http::RequestHead;
use crate::logs;
use crate::mapping::Endpoint;
use crate::refusal::{Refusal, Refused};

/// What a shard knows of tokens.
#[derive(Default)]
pub struct Tokens {
    /// Accepted lately under these settings.
    verdicts: RefCell<TokenVerdicts<Rc<TokenFacts>>>,
    /// Those of requests under way.
    held: RefCell<Slab<Held>>,
}

struct Held {
    site: usize,
    facts: Rc<TokenFacts>,
    is_blocked: bool,
    waker: Option<Waker>,
}

/// Judges the token of a request for this endpoint of a site. `None`: the endpoint asks for none.
pub fn judge(
    gate: &Rc<Gate>,
    settings: &InForce,
    site: usize,
    endpoint: &Endpoint,
    head: &RequestHead<'_, '_>,
) -> Result<Option<Bearer>, Refused> {
    if endpoint.open {
        return Ok(None);
    }
    let refused = |fault: TokenFault| {
        Refused::new(Refusal::InvalidToken, logs::bounded(format!("token refused: {fault}")))
    };
    let named = |name: &[u8]| name.len() == 13 && name.eq_ignore_ascii_case(b"authorization");
    let values = head.fields.iter().filter(|field| named(field.name)).map(|field| field.value);
    let token = bearer(values, endpoint.tokens).map_err(refused)?;
    let now = UnixTime::now();
    let asked = TokenAsked::new(token, site, settings.epoch);
    let known = gate.tokens.verdicts.borrow_mut().find(&asked, now);
    let facts = match known {
        Some(facts) => {
            gate::add(&gate.counters().verdicts_known, 1);
            facts
        }
        None => {
            gate::add(&gate.counters().verdicts_new, 1);
            let facts = Rc::new(settings.sites[site].issuers.verify(token, now).map_err(refused)?);
            gate.tokens.verdicts.borrow_mut().remember(asked, facts.clone(), facts.taken());
            facts
        }
    };
    if endpoint.tokens.contains(facts.kind) {
        Ok(Some(Bearer::new(gate, site, facts)))
    } else {
        Err(refused(TokenFault::NotHere { found: facts.kind, expected: endpoint.tokens }))
    }
}

/// What `AADAuthInfo` says to a tenant that a site has taken up.
pub fn directory(settings: &InForce, query: &[u8]) -> Result<Answer, Refused> {
    let told = token::directory(query, settings.sites.iter().map(|site| &*site.issuers));
    let refused =
        |fault: DirectoryFault| Refused::new(Refusal::InvalidToken, logs::bounded(fault.to_string()));
    told.map(Answer::Directory).map_err(refused)
}

/// Whose requests share a bound: those of one bearer, whom one issuer of one site knows.
pub fn key(site: usize, facts: &TokenFacts) -> ClientKey {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&(site as u64).to_be_bytes());
    for part in [facts.kind.as_str(), &facts.issuer, &facts.tenant, &facts.subject] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    ClientKey::Bearer(hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

impl Tokens {
    /// Other settings, keys or blocked tokens are in force: whoever bears one that is blocked is cut.
    pub fn look_again(&self, settings: &InForce) {
        self.verdicts.borrow_mut().clear();
        for (_, held) in self.held.borrow_mut().iter_mut() {
            let issuers = settings.sites.get(held.site).map(|site| &*site.issuers);
            if issuers.is_some_and(|issuers| issuers.blocking(&held.facts).is_some()) {
                held.is_blocked = true;
                if let Some(waker) = held.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

/// Who bears the token of a request that is under way.
pub struct Bearer {
    /// What is known of it.
    pub facts: Rc<TokenFacts>,
    gate: Rc<Gate>,
    key: usize,
}

impl Bearer {
    fn new(gate: &Rc<Gate>, site: usize, facts: Rc<TokenFacts>) -> Bearer {
        let held = Held { site, facts: facts.clone(), is_blocked: false, waker: None };
        let key = gate.tokens.held.borrow_mut().insert(held);
        Bearer { facts, gate: gate.clone(), key }
    }

    /// Why its request is not sent, once its token has been blocked.
    pub fn shut_out(&self) -> Option<Refused> {
        let is_blocked = self.gate.tokens.held.borrow()[self.key].is_blocked;
        is_blocked.then(|| Refused::new(Refusal::InvalidToken, BLOCKED_MEANWHILE))
    }

    /// Whether its token has been blocked; if not, the task is woken when it is.
    pub fn is_blocked(&self, context: &Context<'_>) -> bool {
        let mut held = self.gate.tokens.held.borrow_mut();
        let held = &mut held[self.key];
        if !held.is_blocked && held.waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            held.waker = Some(context.waker().clone());
        }
        held.is_blocked
    }
}

const BLOCKED_MEANWHILE: &str = "token refused: it was blocked while its request waited";

impl Drop for Bearer {
    fn drop(&mut self) {
        self.gate.tokens.held.borrow_mut().remove(self.key);
    }
}

/// Why its request ends.
pub const BLOCKED: &str = "the client's token was blocked meanwhile";
