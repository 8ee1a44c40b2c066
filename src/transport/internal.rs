//! What a role shows on channels and whom it believes there. Both change while it runs: its certificate is renewed,
//! and the internal authority revokes others'.
//!
//! TLS configurations hold it and are made once, so that a change counts from the next handshake on, by whichever way
//! a channel comes; channels that stand are looked at by [`cut_revoked`]. What files hold is read into one that nobody
//! uses yet (`review`), and taken up from there. A list is believed only when the internal authority signed it, and never
//! an older one in the place of a newer.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::link::Link;
use super::tls_config::{self, Credential};
use crate::auth::{
    self, AllowRules, InternalName, ListFault, ListStanding, RevocationList, RevocationMode, Trust,
    internal_identity,
};
use crate::channel::RevisionTag;
use crate::limits;
use crate::shard::Shard;

/// See the file's head.
pub struct Internal {
    own: ArcSwap<CertifiedKey>,
    authority: ArcSwap<Authority>,
    /// The authority and its lists.
    trust: ArcSwap<Trust>,
    listed: ArcSwap<Listed>,
    /// Counts up with every list.
    generation: AtomicU64,
    taking: Mutex<()>,
}

/// Whose certificates are believed, before anybody looks at a list.
struct Authority {
    ca: Vec<CertificateDer<'static>>,
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Authority {
    fn new(ca: &[CertificateDer<'static>]) -> Result<Authority, Error> {
        let roots = Arc::new(tls_config::roots(ca)?);
        let unfit = |error: VerifierBuilderError| Error::General(error.to_string());
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), tls_config::provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots, tls_config::provider());
        Ok(Authority {
            ca: ca.to_vec(),
            servers: servers.build().map_err(unfit)?,
            clients: clients.build().map_err(unfit)?,
        })
    }
}

/// The lists in force, as gateways are told them.
#[derive(Default)]
pub struct Listed {
    /// In DER, one behind the other; empty: none.
    pub bytes: Vec<u8>,
    /// What each of them says.
    pub lists: Vec<Arc<RevocationList>>,
    serial: u64,
}

impl Listed {
    /// Which they are.
    pub fn revision(&self) -> RevisionTag {
        let sha256 = digest::digest(&digest::SHA256, &self.bytes);
        let sha256 = sha256.as_ref().try_into().expect("SHA-256 has 32 octets");
        RevisionTag { serial: self.serial, sha256 }
    }
}

impl Internal {
    /// Believes certificates of `ca` and shows `own`.
    ///
    /// # Errors
    /// When a key does not belong to its certificate or the CA cannot be an anchor.
    pub fn new(ca: &[CertificateDer<'static>], own: Credential) -> Result<Arc<Internal>, Error> {
        let own = CertifiedKey::from_der(own.chain, own.key, &rustls::crypto::ring::default_provider())?;
        let trust = Trust::new(ca, &[]).map_err(|fault| Error::General(fault.to_string()))?;
        // Whoever no list speaks of is believed.
        let trust = trust.with_rules(AllowRules::default(), RevocationMode::Soft, 0);
        Ok(Arc::new(Internal {
            own: ArcSwap::from_pointee(own),
            authority: ArcSwap::from_pointee(Authority::new(ca)?),
            trust: ArcSwap::from_pointee(trust),
            listed: ArcSwap::default(),
            generation: AtomicU64::new(0),
            taking: Mutex::new(()),
        }))
    }

    /// What it shows.
    pub fn own(&self) -> Arc<CertifiedKey> {
        self.own.load_full()
    }

    /// Who it is.
    pub fn name(&self) -> Option<InternalName> {
        self.own.load().cert.first().and_then(|leaf| internal_identity(leaf).ok())
    }

    /// Whether both are one role of one authority, perhaps by several certificates.
    pub fn is_same_role(&self, other: &Internal) -> bool {
        self.name() == other.name() && self.authority.load().ca == other.authority.load().ca
    }

    /// Shows this from the next handshake on.
    pub fn show(&self, own: Arc<CertifiedKey>) {
        self.own.store(own);
    }

    /// Shows and believes from the next handshake on what was `read` meanwhile. Lists that were held stay, as far as
    /// they are of the same authority.
    pub fn take_up(&self, read: &Internal) {
        self.show(read.own());
        if self.authority.load().ca == read.authority.load().ca {
            return;
        }
        let _turn = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.listed();
        // What another authority signed is not taken, and what was in force stays whatever the clock says. Nobody believes
        // the revoked in between.
        let Judged { trust, bytes, lists, .. } = judge(&read.trust(), &read.listed(), &held.bytes, u64::MAX);
        self.authority.store(read.authority.load_full());
        self.listed.store(Arc::new(Listed { bytes, lists, serial: held.serial + 1 }));
        self.trust.store(Arc::new(trust));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The authority and its lists.
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }

    /// The lists in force.
    pub fn listed(&self) -> Arc<Listed> {
        self.listed.load_full()
    }

    /// Counts up with every list that is taken.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes lists of the authority: in PEM, or in DER one behind the other. Whether one of them is new.
    ///
    /// # Errors
    /// What is wrong with the first that is not taken; the others are.
    pub fn take_lists(&self, bytes: &[u8]) -> Result<bool, ListFault> {
        self.take(bytes, UnixTime::now().as_secs())
    }

    /// The same of lists that were in force here before: when they begin is no matter, for if that is in the future the
    /// clock here is late, and nobody comes back by that.
    ///
    /// # Errors
    /// As [`Internal::take_lists`].
    pub fn take_kept(&self, bytes: &[u8]) -> Result<bool, ListFault> {
        self.take(bytes, u64::MAX)
    }

    /// Takes lists at `now`, in seconds since 1970.
    fn take(&self, bytes: &[u8], now: u64) -> Result<bool, ListFault> {
        let too_long = |size| Err(ListFault::TooLong { size, size_max: limits::INTERNAL_LIST_SIZE_MAX });
        // PEM is longer by a third.
        if bytes.len() > limits::INTERNAL_LIST_SIZE_MAX * 3 / 2 {
            return too_long(bytes.len());
        }
        let _turn = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.listed();
        let Judged { trust, bytes, lists, is_new, fault } = judge(&self.trust.load(), &held, bytes, now);
        if is_new {
            if bytes.len() > limits::INTERNAL_LIST_SIZE_MAX {
                return too_long(bytes.len());
            }
            self.listed.store(Arc::new(Listed { bytes, lists, serial: held.serial + 1 }));
            self.trust.store(Arc::new(trust));
            self.generation.fetch_add(1, Ordering::Release);
        }
        match fault {
            // Beside a new one, that another is old is no news.
            Some(fault) if !is_new => Err(fault),
            _ => Ok(is_new),
        }
    }

    /// Whether a certificate of the chain is on a list.
    pub fn is_revoked(&self, chain: &[CertificateDer<'_>]) -> bool {
        auth::may_be_shut_out(chain, &self.trust.load())
    }

    /// Believes servers of the authority that are not revoked.
    pub(super) fn server_verifier(self: &Arc<Self>) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Believed { internal: self.clone(), with_revoked: false })
    }

    /// The same of clients; those that are revoked, too, if whoever asks judges that.
    pub(super) fn client_verifier(self: &Arc<Self>, with_revoked: bool) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Believed { internal: self.clone(), with_revoked })
    }
}

/// Lists beside those that are held.
struct Judged {
    trust: Trust,
    /// All that count then, in DER.
    bytes: Vec<u8>,
    lists: Vec<Arc<RevocationList>>,
    /// One of them was not held.
    is_new: bool,
    /// What is wrong with the first that is not taken.
    fault: Option<ListFault>,
}

fn judge(trust: &Trust, held: &Listed, bytes: &[u8], now: u64) -> Judged {
    let (mut trust, mut is_new, mut fault) = (Trust::clone(trust), false, None);
    let hashed = |der: Vec<u8>| {
        let sha256 = <[u8; 32]>::try_from(digest::digest(&digest::SHA256, &der).as_ref()).ok()?;
        Some((der, sha256))
    };
    let offered = auth::lists_der(bytes).unwrap_or_else(|wrong| {
        fault = Some(wrong);
        Vec::new()
    });
    let mut ders = Vec::new();
    for (der, sha256) in offered.into_iter().filter_map(hashed) {
        if held.lists.iter().any(|list| list.sha256 == sha256) {
            continue;
        }
        let read = RevocationList::read(&der, &trust, now);
        match read.and_then(|list| trust.take_list(Arc::new(list))) {
            Ok(ListStanding::New) => {
                is_new = true;
                ders.push((der, sha256));
            }
            Ok(ListStanding::Same) => {}
            Err(wrong) => fault = fault.or(Some(wrong)),
        }
    }
    let lists = trust.revocation().lists().to_vec();
    ders.extend(auth::lists_der(&held.bytes).unwrap_or_default().into_iter().filter_map(hashed));
    ders.retain(|(_, sha256)| lists.iter().any(|list| list.sha256 == *sha256));
    let bytes = ders.into_iter().flat_map(|(der, _)| der).collect();
    Judged { trust, bytes, lists, is_new, fault }
}

impl fmt::Debug for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Internal").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Internal {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.own())
    }
}

impl ResolvesClientCert for Internal {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.own())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Judges who is on the other side by the authority and the lists as they are then.
#[derive(Debug)]
struct Believed {
    internal: Arc<Internal>,
    with_revoked: bool,
}

impl Believed {
    fn judge(&self, leaf: &CertificateDer<'_>, above: &[CertificateDer<'_>]) -> Result<(), Error> {
        let chain: Vec<&[u8]> = std::iter::once(leaf).chain(above).map(AsRef::as_ref).collect();
        if !self.with_revoked && auth::may_be_shut_out(&chain, &self.internal.trust.load()) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(())
    }
}

impl ClientCertVerifier for Believed {
    /// The authority's name is not told: a connection point has one certificate, and strangers come to where some of
    /// the listeners are.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.internal.authority.load().clients.verify_client_cert(leaf, above, now)?;
        self.judge(leaf, above).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.internal.authority.load().clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.internal.authority.load().clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.internal.authority.load().clients.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Believed {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.internal.authority.load().servers.verify_server_cert(leaf, above, name, ocsp, now)?;
        self.judge(leaf, above).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.internal.authority.load().servers.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.internal.authority.load().servers.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.internal.authority.load().servers.supported_verify_schemes()
    }
}

/// Cuts the links of a shard whose other side is revoked, for as long as the shard lives: each is judged by every list,
/// and by the list there is as soon as it stands, for it may come in force between a handshake and its link.
pub async fn cut_revoked(shard: Rc<Shard>, internal: Arc<Internal>, links: impl Fn() -> Vec<Rc<Link>>) {
    // By which list each link was judged.
    let mut judged: HashMap<u64, u64> = HashMap::new();
    loop {
        let generation = internal.generation();
        if generation > 0 {
            let links = links();
            judged.retain(|id, _| links.iter().any(|link| link.id == *id));
            for link in &links {
                if judged.get(&link.id) == Some(&generation) {
                    continue;
                }
                // One that is not driven yet is looked at again.
                let Some(is_revoked) = link.with_peer(|chain| internal.is_revoked(chain)) else { continue };
                judged.insert(link.id, generation);
                if is_revoked {
                    cut(&shard, link);
                }
            }
        }
        shard.sleep(LOOK_EVERY).await;
    }
}

fn cut(shard: &Shard, link: &Link) {
    let name = link.with_peer(|chain| chain.first().and_then(|leaf| internal_identity(leaf).ok()));
    let peer = name.flatten().map_or_else(String::new, |name| name.to_string());
    tracing::warn!(shard = shard.index, peer, "its internal certificate is revoked: the channel is cut");
    link.cut("the certificate is revoked");
}

const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(250);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::pki::{Pair, Pki, Reason, Subject};

    fn chain(file: &Path) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
    }

    fn read(ca: &[CertificateDer<'static>], own: &Pair) -> Arc<Internal> {
        let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
        Internal::new(ca, Credential { chain: chain(&own.certificate), key }).unwrap()
    }

    #[test]
    fn a_list_that_is_too_long_is_told_by_the_bound_of_internal_lists() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let internal = read(&chain(&pki.internal_ca()), &pki.gateway("gw1").unwrap());
        let said = internal.take_lists(&[0; 400_000]).unwrap_err().to_string();
        assert_eq!(said, "the list has 400000 octets, more than 262144");
    }

    #[test]
    fn lists_stay_with_another_certificate_and_go_with_their_authority() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [mut pki, other] = [&folders[0], &folders[1]].map(|folder| Pki::open(folder.path()).unwrap());
        let (ca, other_ca) = (chain(&pki.internal_ca()), chain(&other.internal_ca()));
        let own = pki.gateway("gw1").unwrap();
        let point = chain(&pki.connector("PS1", "1").unwrap().certificate);
        let internal = read(&ca, &own);
        pki.revoke(&Subject::Named("connector-PS1-1".to_owned()), Reason::Unspecified).unwrap();
        let list = fs::read(pki.sign_internal_list().unwrap()).unwrap();
        assert!(!internal.is_revoked(&point));
        assert_eq!(internal.take_lists(&list), Ok(true));
        assert_eq!(internal.take_lists(&list), Ok(false));
        assert!(internal.is_revoked(&point) && internal.generation() == 1);

        // Another certificate of the same role.
        fs::remove_file(&own.certificate).unwrap();
        let renewed = read(&ca, &pki.gateway("gw1").unwrap());
        assert!(internal.is_same_role(&renewed) && internal.own().cert != renewed.own().cert);
        internal.take_up(&renewed);
        assert_eq!(internal.own().cert, renewed.own().cert);
        assert!(internal.is_revoked(&point) && internal.generation() == 1);
        assert!(!internal.is_same_role(&read(&ca, &pki.gateway("gw2").unwrap())));

        // Another authority beside the first, and in its place.
        let elsewhere = other.gateway("gw1").unwrap();
        internal.take_up(&read(&[ca, other_ca.clone()].concat(), &elsewhere));
        assert!(internal.is_revoked(&point) && internal.listed().lists.len() == 1);
        assert_eq!(
            (internal.generation(), internal.listed().bytes.is_empty()),
            (2, false),
            "once, with the list"
        );
        let alone = read(&other_ca, &elsewhere);
        assert!(!internal.is_same_role(&alone));
        let before = (internal.generation(), internal.listed().revision());
        internal.take_up(&alone);
        assert!(!internal.is_revoked(&point) && internal.listed().bytes.is_empty());
        assert!(internal.generation() > before.0 && internal.listed().revision() != before.1);
        assert!(internal.take_lists(&list).is_err());
        assert!(internal.is_same_role(&alone));
    }
}
