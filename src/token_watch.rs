//! What changes of a site's tokens while a role runs: keys that are fetched or come to a file, tokens that are
//! blocked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::digest;

use crate::admin::{Target, Trust, ask};
use crate::auth::token::{Issuers, MaterialFault, TokenIssuer, TokenKey, TokenMaterial};
use crate::channel::RevisionTag;
use crate::limits::{
    TOKEN_KEY_COUNT_MAX, TOKEN_KEYS_FETCHED_EVERY, TOKEN_KEYS_KEPT_FOR, TOKEN_KEYS_RETRIED_AFTER,
    TOKENS_WATCHED_EVERY,
};
use crate::logs;
use crate::mapping::{InternalUrl, Scheme};
use crate::review::{self, KeyFile, KeyUrl, SiteTokens};

/// What is in force of tokens; another one whenever something changes.
pub struct State {
    issuers: Issuers,
    /// As gateways are told it.
    pub bytes: Vec<u8>,
    /// Which one it is: by its time.
    pub revision: RevisionTag,
    /// Which watch found it.
    pub watch: u64,
}

impl State {
    /// Whose tokens are taken, and which are not.
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    fn new(watch: u64, entries: &[TokenIssuer], material: &TokenMaterial, after: u64) -> State {
        let bytes = material.to_bytes();
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let serial = u64::try_from(millis).unwrap_or(u64::MAX).max(after + 1);
        let sha256 = digest::digest(&digest::SHA256, &bytes);
        let sha256 = sha256.as_ref().try_into().expect("SHA-256 has 32 octets");
        let issuers = TokenMaterial::issuers(entries, std::iter::once(material));
        State { issuers, bytes, revision: RevisionTag { serial, sha256 }, watch }
    }
}

/// What outlives a watch, for the next one when other settings are in force.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// Watches there were.
    watches: u64,
    /// Of the latest state.
    serial: u64,
    /// Keys, when they were fetched, and from where.
    fetched: Vec<(KeyUrl, Vec<TokenKey>, Instant)>,
}

impl Known {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is told of changes.
pub trait Audience: Send + 'static {
    /// Whether somebody still listens.
    fn is_there(&self) -> bool;
    /// This is in force from now on.
    fn hear(&self, state: &Arc<State>);
}

/// Looks after what changes.
pub struct Watch {
    number: u64,
    known: Known,
    tokens: SiteTokens,
    material: TokenMaterial,
    /// By the number of its URL: keys, and when they were fetched.
    fetched: BTreeMap<usize, (Vec<TokenKey>, Instant)>,
    /// By the number of its file: keys that it holds.
    filed: BTreeMap<usize, Filed>,
    /// What was wrong last, so that it is told once.
    trouble: Option<String>,
    /// The same of what no channel can carry.
    refused: Option<MaterialFault>,
}

/// A file of keys as it was read last.
#[derive(Default)]
struct Filed {
    keys: Vec<TokenKey>,
    /// When the file was changed, and how long it is; none: it is to be read.
    seen: Option<(SystemTime, u64)>,
    /// What was wrong with it, so that it is told once.
    trouble: String,
    /// Keys in it that there is no room for; the same.
    excess: String,
}

impl Filed {
    /// Reads the file if it has changed. What cannot be read takes the place of nothing.
    fn look(&mut self, KeyFile { issuer, path }: &KeyFile) {
        let seen = fs::metadata(path).and_then(|facts| Ok((facts.modified()?, facts.len()))).ok();
        if seen.is_some() && seen == self.seen {
            self.trouble.clear();
            return;
        }
        match review::read_key_file(path) {
            Ok(keys) => {
                if keys != self.keys {
                    tracing::info!(issuer, file = %path.display(), "keys read: {}", names(&keys));
                }
                *self =
                    Filed { keys, seen, trouble: String::new(), excess: std::mem::take(&mut self.excess) };
            }
            Err(trouble) if trouble == self.trouble => {}
            Err(trouble) => {
                tracing::error!(issuer, file = %path.display(), trouble, "keys cannot be read; those before stay");
                self.trouble = trouble;
            }
        }
    }
}

/// What logs call keys.
fn names(keys: &[TokenKey]) -> String {
    let names: Vec<&str> = keys.iter().map(TokenKey::name).collect();
    logs::bounded(names.join(", ").escape_debug().to_string())
}

/// Of the URL with this number: its keys, or why there are none.
type News = (usize, Result<Vec<TokenKey>, String>);

impl Watch {
    /// With what is there now, and what the watch before knew of the same.
    pub fn new(tokens: &SiteTokens, known: &Known) -> (Watch, Arc<State>) {
        let number = {
            let mut kept = known.kept();
            kept.watches += 1;
            kept.watches
        };
        let mut watch = Watch {
            number,
            known: known.clone(),
            tokens: tokens.clone(),
            material: TokenMaterial::default(),
            fetched: BTreeMap::new(),
            filed: BTreeMap::new(),
            trouble: None,
            refused: None,
        };
        for (number, url) in tokens.urls.iter().enumerate() {
            let kept = known.kept();
            let held = kept.fetched.iter().find(|(held, ..)| held == url);
            watch.fetched.extend(held.map(|(_, keys, at)| (number, (keys.clone(), *at))));
        }
        watch.look();
        let state = watch.state();
        (watch, state)
    }

    fn state(&mut self) -> Arc<State> {
        let mut kept = self.known.kept();
        let state = State::new(self.number, &self.tokens.issuers, &self.material, kept.serial);
        kept.serial = state.revision.serial;
        Arc::new(state)
    }

    /// Leaves what was fetched to the next watch.
    fn keep(&self) {
        let all = self.fetched.iter();
        let fetched = all.map(|(number, (keys, at))| (self.tokens.urls[*number].clone(), keys.clone(), *at));
        let fetched = fetched.collect();
        let mut kept = self.known.kept();
        // The next one knows what it still wants.
        if kept.watches == self.number {
            kept.fetched = fetched;
        }
    }

    /// Looks whether something has changed.
    fn look(&mut self) -> bool {
        let blocked = self.blocked();
        let keys = self.keys(Instant::now());
        if blocked == self.material.blocked && keys == self.material.keys {
            self.refused = None;
            return false;
        }
        let material = TokenMaterial { blocked, keys };
        if let Err(fault) = material.check_size() {
            if self.refused.as_ref() != Some(&fault) {
                tracing::error!("{fault}; what was said before stays");
            }
            self.refused = Some(fault);
            return false;
        }
        self.material = material;
        true
    }

    /// Those that the file says; when it cannot be read, those that it said before.
    fn blocked(&mut self) -> Vec<String> {
        let Some(file) = &self.tokens.blocked else { return Vec::new() };
        match read_blocked(file) {
            Ok(blocked) => {
                self.trouble = None;
                blocked
            }
            Err(text) => {
                if self.trouble.as_ref() != Some(&text) {
                    tracing::error!("{text}; those blocked before stay so");
                }
                self.trouble = Some(text);
                self.material.blocked.clone()
            }
        }
    }

    /// Keys that were fetched and are not too old at `now`, or that came to a file behind the start, by issuer.
    fn keys(&mut self, now: Instant) -> BTreeMap<String, Vec<TokenKey>> {
        self.fetched.retain(|_, (_, at)| now.duration_since(*at) < TOKEN_KEYS_KEPT_FOR);
        let mut keys: BTreeMap<String, Vec<TokenKey>> = BTreeMap::new();
        for (number, (fetched, _)) in &self.fetched {
            let all = keys.entry(self.tokens.urls[*number].issuer.clone()).or_default();
            all.extend(fetched.iter().filter(|key| !all.contains(key)).cloned().collect::<Vec<_>>());
            all.truncate(TOKEN_KEY_COUNT_MAX);
        }
        for (number, file) in self.tokens.files.iter().enumerate() {
            let filed = self.filed.entry(number).or_default();
            filed.look(file);
            let published = self.tokens.issuers.iter().find(|entry| entry.name == file.issuer);
            let held = keys.get(&file.issuer).into_iter().flatten();
            let known: Vec<_> = published.into_iter().flat_map(|entry| &entry.keys).chain(held).collect();
            let others = filed.keys.iter().filter(|key| !known.contains(key)).cloned();
            let mut others: Vec<_> = others.collect();
            let room = TOKEN_KEY_COUNT_MAX.saturating_sub(known.len());
            let excess = names(others.get(room..).unwrap_or_default());
            if !excess.is_empty() && excess != filed.excess {
                tracing::error!(
                    issuer = file.issuer,
                    "{TOKEN_KEY_COUNT_MAX} keys at most; not believed: {excess}"
                );
            }
            filed.excess = excess;
            others.truncate(room);
            if !others.is_empty() {
                keys.entry(file.issuer.clone()).or_default().extend(others);
            }
        }
        keys
    }

    fn hear(&mut self, (number, outcome): News) {
        let KeyUrl { issuer, url, .. } = &self.tokens.urls[number];
        let from = url.address.authority();
        match outcome {
            Ok(mut keys) => {
                // Who answers in another order each time says nothing new.
                keys.sort_by(|one, other| one.name().cmp(other.name()));
                if self.fetched.get(&number).is_none_or(|(held, _)| *held != keys) {
                    tracing::info!(issuer, from, "keys fetched: {}", names(&keys));
                }
                self.fetched.insert(number, (keys, Instant::now()));
                self.keep();
            }
            Err(error) => tracing::warn!(issuer, from, error, "keys cannot be fetched; those before stay"),
        }
    }

    /// Looks again and again, until nobody listens; says what has changed.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start(mut self, audience: impl Audience) -> std::io::Result<()> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        let (tell_news, news) = mpsc::channel();
        let urls = self.tokens.urls.clone();
        // Apart, for who is slow to answer must not keep a token from being blocked.
        let wanted = Arc::new(());
        let is_wanted = Arc::downgrade(&wanted);
        let fetch = move || fetch_all(&urls, &tell_news, &is_wanted);
        thread::Builder::new().name("token-keys".to_owned()).spawn(fetch)?;
        thread::Builder::new().name("tokens".to_owned()).spawn(move || {
            let _wanted = wanted;
            while audience.is_there() {
                match news.recv_timeout(TOKENS_WATCHED_EVERY) {
                    Ok(one) => self.hear(one),
                    Err(RecvTimeoutError::Timeout) => {}
                    // There is nothing to fetch.
                    Err(RecvTimeoutError::Disconnected) => thread::sleep(TOKENS_WATCHED_EVERY),
                }
                if self.look() {
                    let state = self.state();
                    let blocked = self.material.blocked.len();
                    tracing::info!(blocked, "keys or blocked tokens changed");
                    audience.hear(&state);
                }
            }
        })?;
        Ok(())
    }
}

/// Fetches key sets for as long as somebody wants them.
fn fetch_all(urls: &[KeyUrl], tell: &mpsc::Sender<News>, is_wanted: &Weak<()>) {
    let mut due = vec![Instant::now(); urls.len()];
    while !urls.is_empty() && is_wanted.strong_count() > 0 {
        for (number, url) in urls.iter().enumerate() {
            if due[number] > Instant::now() {
                continue;
            }
            let outcome = fetch(url);
            let wait = if outcome.is_ok() { TOKEN_KEYS_FETCHED_EVERY } else { TOKEN_KEYS_RETRIED_AFTER };
            due[number] = Instant::now() + wait;
            if tell.send((number, outcome)).is_err() {
                return;
            }
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn fetch(from: &KeyUrl) -> Result<Vec<TokenKey>, String> {
    let InternalUrl { address, prefix } = &from.url;
    let target = Target::Listener {
        host: address.host.clone(),
        port: address.port,
        trust: from.ca.clone().filter(|_| address.scheme == Scheme::Https).map(Trust::Authority),
        token_file: None,
    };
    let path = if prefix.is_empty() { "/" } else { prefix };
    let answer = ask(&target, "GET", path, "").map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("it answers {}", answer.status));
    }
    let keys = TokenKey::read_set(answer.body.as_bytes()).map_err(|fault| fault.to_string())?;
    if keys.is_empty() { Err("it has no key that can be used".to_owned()) } else { Ok(keys) }
}

fn read_blocked(file: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    TokenMaterial::read_blocked(&text).map_err(|fault| format!("{}: {fault}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetched_keys_are_kept_for_a_day_after_the_last_good_fetch() {
        let keys = || TokenKey::read_set(include_bytes!("../fuzz/seeds/token/keys.json")).unwrap();
        let address = InternalUrl::parse("http://127.0.0.1:1/keys").unwrap();
        let url = KeyUrl { issuer: "directory".to_owned(), url: address, ca: None };
        let tokens = SiteTokens { urls: vec![url], ..SiteTokens::default() };
        let known = Known::default();
        let (mut watch, first) = Watch::new(&tokens, &known);
        watch.hear((0, Ok(keys())));
        let fetched = watch.fetched[&0].1;
        // The next watch has them, too, and says something later.
        let (mut next, second) = Watch::new(&tokens, &known);
        assert_eq!(next.keys(fetched)["directory"].len(), keys().len());
        assert!(second.revision.serial > first.revision.serial && second.watch > first.watch);
        // One that fails takes nothing, and gives no more time.
        watch.hear((0, Err("it answers 503".to_owned())));
        let almost = fetched + TOKEN_KEYS_KEPT_FOR - Duration::from_secs(1);
        assert_eq!(watch.keys(almost)["directory"].len(), keys().len());
        assert!(watch.keys(fetched + TOKEN_KEYS_KEPT_FOR).is_empty());
        assert!(watch.keys(almost).is_empty(), "what is forgotten has to be fetched");
    }
}
