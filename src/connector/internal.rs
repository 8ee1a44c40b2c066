//! Internal certificates at a connection point: gateways are told which are revoked, those that are are cut, and what
//! gateways ask is carried to the issuer.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Here;
use crate::channel::RenewalAnswer;
use crate::limits::{RENEWAL_SIZE_MAX, RENEWALS_CARRIED_MAX};
use crate::renewal::{Issuer, Place};
use crate::settings::ConnectorSettings;
use crate::transport::{Internal, Link, StartError, cut_revoked};

/// What came of requests that were carried, until their shard takes it: by link.
pub type Answers = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// What is kept up, as these settings say; `internal` is who asks the issuer.
pub fn place(
    folder: &Path,
    settings: &ConnectorSettings,
    internal: &Arc<Internal>,
) -> Result<Place, StartError> {
    let issuer = settings.issuer.as_ref().map(|address| Issuer::new(address, internal)).transpose();
    let issuer = issuer.map_err(|error| StartError(format!("internal.issuer: {error}")))?;
    Ok(Place::new(folder, &settings.internal, issuer))
}

/// Looks after the channels of a shard, for ever.
pub fn look_after(here: &Rc<Here>) {
    let (shard, internal) = (here.shard.clone(), here.board.keeper.internal().clone());
    let links = here.clone();
    shard.spawn("cut revoked", cut_revoked(shard.clone(), internal, move || links.links.borrow().clone()));
    let here = here.clone();
    shard.spawn("internal", async move {
        // Which list each link was told last.
        let mut told = HashMap::new();
        loop {
            here.shard.sleep(LOOK_EVERY).await;
            publish(&here, &mut told);
            answer(&here);
        }
    });
}

/// On every channel: it must be heard as soon as one of them stands.
fn publish(here: &Here, told: &mut HashMap<u64, u64>) {
    let internal = here.board.keeper.internal();
    let generation = internal.generation();
    if generation == 0 {
        return;
    }
    let listed = internal.listed();
    let links = here.links.borrow();
    told.retain(|id, _| links.iter().any(|link| link.id == *id));
    for link in links.iter().filter(|link| link.is_open()) {
        if told.insert(link.id, generation) != Some(generation) {
            link.publish_revoked(listed.revision(), &listed.bytes);
        }
    }
}

fn answer(here: &Here) {
    let answers = std::mem::take(&mut *here.answers.lock().unwrap_or_else(PoisonError::into_inner));
    for (link, bytes) in answers {
        let found = here.links.borrow().iter().find(|one| one.id == link).cloned();
        if let Some(Err(busy)) = found.map(|link| link.renewal(&bytes)) {
            tracing::warn!(%busy, "what came of a renewal could not be passed on");
        }
    }
}

/// Requests that are under way.
static CARRIED: AtomicUsize = AtomicUsize::new(0);

/// Carries what a gateway asks to the issuer, on a thread; the answer goes back by the same channel. What is asked is
/// proved by itself, so nothing of it is judged here.
pub fn carry(here: &Rc<Here>, link: &Rc<Link>, message: &[u8]) {
    let (id, answers) = (link.id, here.answers.clone());
    let say = move |answer: RenewalAnswer<'_>| {
        answers.lock().unwrap_or_else(PoisonError::into_inner).push((id, answer.encode()));
    };
    let Some(issuer) = here.board.keeper.issuer() else { return say(RenewalAnswer::Nobody) };
    if message.len() > RENEWAL_SIZE_MAX {
        return say(RenewalAnswer::Refused("it is too long"));
    }
    if CARRIED.fetch_add(1, Ordering::Relaxed) >= RENEWALS_CARRIED_MAX {
        CARRIED.fetch_sub(1, Ordering::Relaxed);
        return say(RenewalAnswer::Refused("others are being carried; it is to be asked again"));
    }
    let (message, tell) = (message.to_vec(), say.clone());
    let started = thread::Builder::new().name("carry-renewal".to_owned()).spawn(move || {
        let given = issuer.renew(&message);
        CARRIED.fetch_sub(1, Ordering::Relaxed);
        match given {
            Ok(chain) => tell(RenewalAnswer::Given(&chain)),
            Err(text) => {
                tracing::warn!("a gateway's renewal: {text}");
                tell(RenewalAnswer::Refused(&text));
            }
        }
    });
    if let Err(error) = started {
        CARRIED.fetch_sub(1, Ordering::Relaxed);
        say(RenewalAnswer::Refused(&format!("there is no thread to carry it: {error}")));
    }
}

/// How often there may be something to say.
const LOOK_EVERY: Duration = Duration::from_millis(250);
