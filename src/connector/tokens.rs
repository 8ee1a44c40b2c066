//! Tokens at the connection point: judged once more before an origin sees a request, and what changes of
//! them told to the shards, who tell the gateways.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rustls::pki_types::UnixTime;

use super::Control;
use super::record::Fault;
use crate::auth::token::{TokenAsked, TokenFacts, TokenFault, TokenVerdicts, bearer};
use crate::channel::RequestMessage;
use crate::logs;
use crate::mapping::Endpoint;
use crate::refusal::Refusal;
use crate::shard::Mesh;
use crate::token_watch::{Audience, State};

/// What one shard judges by.
pub struct Judge {
    state: RefCell<Arc<State>>,
    verdicts: RefCell<TokenVerdicts<Rc<TokenFacts>>>,
}

impl Judge {
    /// By this.
    pub fn new(state: Arc<State>) -> Judge {
        Judge { state: RefCell::new(state), verdicts: RefCell::default() }
    }

    /// By this from now on. Whether it is not older than what is here: from a watch that others took the place of, or
    /// what a watch began with and has found more since.
    pub fn take(&self, state: &Arc<State>) -> bool {
        let age = |state: &State| (state.watch, state.revision.serial);
        if age(state) < age(&self.state.borrow()) {
            return false;
        }
        *self.state.borrow_mut() = state.clone();
        self.verdicts.borrow_mut().clear();
        true
    }

    /// By what it judges.
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Judges the token of a request that came by the family for tokens. The gateway did so, and is not
    /// believed.
    pub fn judge(&self, request: &RequestMessage<'_>, endpoint: &Endpoint) -> Result<(), Fault> {
        if endpoint.open {
            return Ok(());
        }
        let refused = |fault: TokenFault| {
            Fault::refused(Refusal::InvalidToken, logs::bounded(format!("token refused: {fault}")))
        };
        let named = request.fields().filter(|field| is_authorization(field.name)).map(|field| field.value);
        let token = bearer(named, endpoint.tokens).map_err(refused)?;
        let state = self.state.borrow();
        let asked = TokenAsked::new(token, 0, state.revision.serial);
        let now = UnixTime::now();
        let known = self.verdicts.borrow_mut().find(&asked, now);
        let facts = match known {
            Some(facts) => facts,
            None => {
                let facts = Rc::new(state.issuers().verify(token, now).map_err(refused)?);
                self.verdicts.borrow_mut().remember(asked, facts.clone(), facts.taken());
                facts
            }
        };
        if endpoint.tokens.contains(facts.kind) {
            Ok(())
        } else {
            Err(refused(TokenFault::NotHere { found: facts.kind, expected: endpoint.tokens }))
        }
    }
}

/// The name of the field that has a token.
pub fn is_authorization(name: &[u8]) -> bool {
    name.len() == 13 && name.eq_ignore_ascii_case(b"authorization")
}

/// The shards of this process, as long as the settings are in force that the tokens are of.
pub struct Shards {
    /// Where they are told.
    pub mesh: Weak<Mesh<Control>>,
    /// Gone when other settings took the place of these.
    pub settings: Weak<()>,
}

impl Audience for Shards {
    fn is_there(&self) -> bool {
        self.mesh.strong_count() > 0 && self.settings.strong_count() > 0
    }

    fn hear(&self, state: &Arc<State>) {
        let Some(mesh) = self.mesh.upgrade() else { return };
        for to in 0..mesh.shards() {
            // An inbox that is full is emptied within a turn or two. Nobody else holds the mesh when the process ends.
            while mesh.send(to, Control::Tokens(state.clone())).is_err() && Arc::strong_count(&mesh) > 1 {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
