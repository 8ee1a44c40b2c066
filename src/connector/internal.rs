//! Internal certificates at a connection point: gateways are told which are revoked, those that are are cut, and what
//! gateways ask is carried to the issuer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Here;
use super::board::{Board, InstanceBoard};
use crate::channel::{Busy, RenewalAnswer};
use crate::limits::{RENEWAL_SIZE_MAX, RENEWALS_CARRIED_MAX};
use crate::renewal::{Issuer, NOT_ASKED, Place};
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

/// Where the list is kept that the issuer gave: beside the certificate, where the role writes already.
pub fn list_file(folder: &Path, settings: &ConnectorSettings) -> PathBuf {
    folder.join(&settings.internal.identity.chain).with_extension("revoked.der")
}

/// Looks after the channels of a shard, for ever.
pub fn look_after(here: &Rc<Here>) {
    let (shard, internal) = (here.shard.clone(), here.board.keeper.internal().clone());
    let links = here.clone();
    shard.spawn("cut revoked", cut_revoked(shard.clone(), internal, move || links.links.borrow().clone()));
    let here = here.clone();
    shard.spawn("internal", async move {
        // Which list each link was told last, and which is kept.
        let (mut told, mut written) = (HashMap::new(), 0);
        loop {
            here.shard.sleep(LOOK_EVERY).await;
            publish(&here, &mut told);
            answer(&here);
            let keeper = &here.board.keeper;
            let generation = keeper.internal().generation();
            // Without an issuer it comes from a file, which is there at the next start.
            if here.shard.index == 0
                && keeper.issuer().is_some()
                && std::mem::replace(&mut written, generation) != generation
            {
                let kept = &here.board.kept_list;
                kept.is_in(list_file(&here.board.folder, &here.works().plan.settings));
                kept.keep(keeper.internal());
            }
        }
    });
}

/// On every channel, those that leave included: it must be heard as soon as one of them stands.
fn publish(here: &Here, told: &mut HashMap<u64, u64>) {
    let internal = here.board.keeper.internal();
    let (generation, listed) = (internal.generation(), internal.listed());
    // The authority may be another, of which there is no list.
    if listed.bytes.is_empty() {
        return;
    }
    let links = here.links.borrow();
    told.retain(|id, _| links.iter().any(|link| link.id == *id));
    for link in links.iter().filter(|link| link.is_up()) {
        if told.insert(link.id, generation) != Some(generation) {
            link.publish_revoked(listed.revision(), &listed.bytes);
        }
    }
}

fn answer(here: &Here) {
    let answers = || here.answers.lock().unwrap_or_else(PoisonError::into_inner);
    for (link, bytes) in std::mem::take(&mut *answers()) {
        let found = here.links.borrow().iter().find(|one| one.id == link).cloned();
        match found.map(|link| link.renewal(&bytes)) {
            // Until then the gateway can ask nothing more on this channel.
            Some(Err(Busy::Backlog)) => answers().push((link, bytes)),
            Some(Err(busy)) => tracing::warn!(%busy, "what came of a renewal could not be passed on"),
            Some(Ok(())) | None => {}
        }
    }
}

/// A request that is under way: there are so many on the board, and one of each instance.
struct Carried {
    board: Arc<Board>,
    instance: Arc<InstanceBoard>,
}

impl Carried {
    fn begin(here: &Here, instance: &Arc<InstanceBoard>) -> Result<Carried, &'static str> {
        if !instance.begins_to_renew(Instant::now()) {
            return Err("this instance asked a moment ago; it is to be asked again");
        }
        let carried = Carried { board: here.board.clone(), instance: instance.clone() };
        if here.board.carried.fetch_add(1, Ordering::Relaxed) >= RENEWALS_CARRIED_MAX {
            return Err("others are being carried; it is to be asked again");
        }
        Ok(carried)
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.board.carried.fetch_sub(1, Ordering::Relaxed);
        self.instance.has_renewed();
    }
}

/// Carries what a gateway asks to the issuer, on a thread; the answer goes back by the same channel. What is asked is
/// proved by itself, so nothing of it is judged here. What goes wrong inside is no business of a machine outside.
pub fn carry(here: &Rc<Here>, instance: &Arc<InstanceBoard>, link: &Rc<Link>, message: &[u8]) {
    let (id, answers) = (link.id, here.answers.clone());
    let say = move |answer: RenewalAnswer<'_>| {
        answers.lock().unwrap_or_else(PoisonError::into_inner).push((id, answer.encode()));
    };
    let Some(issuer) = here.board.keeper.issuer() else { return say(RenewalAnswer::Nobody) };
    if message.len() > RENEWAL_SIZE_MAX {
        return say(RenewalAnswer::Refused("it is too long"));
    }
    let carried = match Carried::begin(here, instance) {
        Ok(carried) => carried,
        Err(text) => return say(RenewalAnswer::Refused(text)),
    };
    let (message, tell) = (message.to_vec(), say.clone());
    let started = thread::Builder::new().name("carry-renewal".to_owned()).spawn(move || {
        let given = issuer.renew(&message);
        drop(carried);
        match given {
            Ok(chain) => tell(RenewalAnswer::Given(&chain)),
            Err(fault) => {
                tracing::warn!("a gateway's renewal: {fault}");
                tell(RenewalAnswer::Refused(fault.outside()));
            }
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread to carry a gateway's renewal");
        say(RenewalAnswer::Refused(NOT_ASKED));
    }
}

/// How often there may be something to say.
const LOOK_EVERY: Duration = Duration::from_millis(250);
