//! Whether a token is good, and whose it is.

use jsonwebtoken::Validation;
use rustls::pki_types::UnixTime;

use super::claims::{Claims, Header, Parts, Unverified, read};
use super::fault::{TokenFault, listed, shown};
use super::issuer::{Issuers, TokenIssuer};
use super::key::TokenKey;
use super::{TokenKind, TokenKinds};
use crate::auth::Validity;
use crate::auth::certificate::date;
use crate::limits::{
    TOKEN_BLOCKED_SIZE_MAX, TOKEN_CCM_LIFE_MAX, TOKEN_CLIENT_LIFE_MAX, TOKEN_CLOCK_SKEW,
    TOKEN_DEVICE_SIZE_MAX, TOKEN_REGISTRATION_LIFE_MAX, TOKEN_SIZE_MAX, TOKEN_SUBJECT_SIZE_MAX,
};

/// What is known of a token that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// What it is for.
    pub kind: TokenKind,
    /// Name of its issuer's entry.
    pub issuer: String,
    /// Who bears it: a device or a user; of a registration token its own id.
    pub subject: String,
    /// Tenant or hierarchy; empty where it has none.
    pub tenant: String,
    /// By what it is blocked; empty where it has none.
    pub id: String,
    /// `UserId`, or the directory's name of a user; empty where it has none.
    pub user: String,
    /// Every name in it by which a site may block it: of the token, its device and its user. Longer ones
    /// than may be blocked are left out.
    pub names: Box<[Box<str>]>,
    /// What logs call who bears it.
    pub label: String,
    /// In seconds since 1970, the skew of clocks not counted.
    pub valid: Validity,
}

impl TokenFacts {
    /// When it may be taken: its life, and so much as clocks may differ.
    pub fn taken(&self) -> Validity {
        let skew = TOKEN_CLOCK_SKEW.as_secs();
        Validity { from: self.valid.from.saturating_sub(skew), until: self.valid.until.saturating_add(skew) }
    }
}

/// The token of `Authorization`; `values` are those of all fields of that name.
///
/// # Errors
/// `Missing`, `Twice`, `NotBearer`.
pub fn bearer<'h>(
    mut values: impl Iterator<Item = &'h [u8]>,
    accepted: TokenKinds,
) -> Result<&'h [u8], TokenFault> {
    let value = values.next().ok_or(TokenFault::Missing(accepted))?;
    if values.next().is_some() {
        return Err(TokenFault::Twice);
    }
    let (scheme, rest) = value.split_at_checked(SCHEME.len()).ok_or(TokenFault::NotBearer)?;
    let token = rest.trim_ascii_start();
    // Without leaving early, which the compiler turns into a comparison of many octets at once.
    let is_graphic = token.iter().fold(true, |so_far, octet| so_far & octet.is_ascii_graphic());
    let is_one = !token.is_empty() && is_graphic && rest[0] == b' ';
    if scheme.eq_ignore_ascii_case(SCHEME) && is_one { Ok(token) } else { Err(TokenFault::NotBearer) }
}

const SCHEME: &[u8] = b"Bearer";

impl Issuers {
    /// The name in a token by which the site blocks it, if it does.
    pub fn blocking<'f>(&self, facts: &'f TokenFacts) -> Option<&'f str> {
        facts.names.iter().map(|name| &**name).find(|name| self.is_blocked(name))
    }

    /// Judges a token: its form, whose it is, its signature, for whom, what for, of which tenant, when,
    /// and whether it is blocked. Whether this endpoint takes its kind is asked of [`TokenFacts`].
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &[u8], now: UnixTime) -> Result<TokenFacts, TokenFault> {
        if token.len() > TOKEN_SIZE_MAX {
            return Err(TokenFault::TooLong(token.len()));
        }
        let parts = Parts::of(token)?;
        let header: Header = read(parts.header, "its header is not one of a JWT")?;
        if let Some(member) = header.forbidden() {
            return Err(TokenFault::HeaderMember(member));
        }
        let unverified: Unverified = read(parts.payload, "its claims are no JSON object")?;
        let iss = unverified.iss.ok_or(TokenFault::NoClaim("iss"))?;
        let (entry, key, ready) = self.find(&iss, &header)?;
        let expected = key.public.algorithm_name();
        if header.alg != expected {
            return Err(TokenFault::Algorithm { found: shown(&header.alg), expected });
        }
        let claims = signed(token, entry, key, ready)?;
        let facts = judge(&claims, entry, now)?;
        match self.blocking(&facts) {
            Some(id) => Err(TokenFault::Blocked(shown(id))),
            None => Ok(facts),
        }
    }
}

/// The claims, once the signature over them is that of the key.
fn signed(
    token: &[u8],
    entry: &TokenIssuer,
    key: &TokenKey,
    ready: &jsonwebtoken::DecodingKey,
) -> Result<Claims, TokenFault> {
    super::provider::install();
    let mut validation = Validation::new(key.public.algorithm());
    // What the claims must be is judged below, against the time given and with what was found.
    (validation.validate_exp, validation.validate_aud) = (false, false);
    validation.required_spec_claims.clear();
    match jsonwebtoken::decode::<Claims>(token, ready, &validation) {
        Ok(data) => Ok(data.claims),
        Err(error) => Err(match error.kind() {
            jsonwebtoken::errors::ErrorKind::Json(_) => {
                TokenFault::Malformed("a claim has another type than it should, or stands there twice")
            }
            _ => TokenFault::Signature { issuer: entry.name.clone(), key: shown(key.name()) },
        }),
    }
}

fn judge(claims: &Claims, entry: &TokenIssuer, now: UnixTime) -> Result<TokenFacts, TokenFault> {
    let kind = claims.token_kind().filter(|kind| entry.kinds.contains(*kind)).ok_or_else(|| {
        TokenFault::Category {
            found: shown(&claims.shown_kind()),
            expected: entry.kinds,
            issuer: entry.name.clone(),
        }
    })?;
    let audiences = claims.audiences();
    if !audiences.iter().any(|one| entry.audiences.contains(one)) {
        let found = listed(audiences.iter().map(String::as_str));
        let expected = listed(entry.audiences.iter().map(String::as_str));
        return Err(TokenFault::Audience { found, expected });
    }
    let tenant = claims.tenant(kind).unwrap_or_default();
    if !entry.tenants.is_empty() && !entry.tenants.iter().any(|one| one.eq_ignore_ascii_case(tenant)) {
        let expected = listed(entry.tenants.iter().map(String::as_str));
        return Err(TokenFault::Tenant { found: shown(tenant), expected });
    }
    let valid = life(claims, kind, now)?;
    let subject = claims.subject(kind).ok_or(TokenFault::NoClaim(match kind {
        TokenKind::Registration => "UniqueId",
        TokenKind::Client | TokenKind::Ccm => "DeviceId or UserId",
        TokenKind::Directory => "sub",
    }))?;
    let expected = if kind == TokenKind::Directory { TOKEN_SUBJECT_SIZE_MAX } else { TOKEN_DEVICE_SIZE_MAX };
    if subject.len() > expected {
        return Err(TokenFault::LongSubject { found: subject.len(), expected });
    }
    let names = claims.names().filter(|name| name.len() <= TOKEN_BLOCKED_SIZE_MAX);
    Ok(TokenFacts {
        kind,
        names: names.map(Into::into).collect(),
        issuer: entry.name.clone(),
        label: format!("{kind}:{}", bounded(subject)),
        subject: subject.to_owned(),
        tenant: bounded(tenant),
        id: bounded(claims.id().unwrap_or_default()),
        user: bounded(claims.user.as_deref().unwrap_or_default()),
        valid,
    })
}

fn life(claims: &Claims, kind: TokenKind, now: UnixTime) -> Result<Validity, TokenFault> {
    let until = seconds(claims.exp).ok_or(TokenFault::NoClaim("exp, in seconds"))?;
    let from = match (seconds(claims.nbf), claims.nbf, kind) {
        (Some(from), _, _) => from,
        // OpenID Connect Core 2 has none in an ID token.
        (None, None, TokenKind::Directory) => 0,
        (None, _, _) => return Err(TokenFault::NoClaim("nbf, in seconds")),
    };
    let (skew, seconds_now) = (TOKEN_CLOCK_SKEW.as_secs(), now.as_secs());
    if until.saturating_add(skew) < seconds_now {
        return Err(TokenFault::Expired { until: date(until), now: date(seconds_now) });
    }
    if from > seconds_now.saturating_add(skew) {
        return Err(TokenFault::Early { from: date(from), now: date(seconds_now) });
    }
    let longest = match kind {
        TokenKind::Registration => Some(TOKEN_REGISTRATION_LIFE_MAX),
        TokenKind::Client => Some(TOKEN_CLIENT_LIFE_MAX),
        TokenKind::Ccm => Some(TOKEN_CCM_LIFE_MAX),
        // As long as its provider likes; so are its keys.
        TokenKind::Directory => None,
    };
    let found = until.saturating_sub(from);
    match longest.map(|longest| longest.as_secs()) {
        // Issuers date a token a little back, for clocks that are behind.
        Some(expected) if found > expected + skew => Err(TokenFault::LongLived { found, expected }),
        _ => Ok(Validity { from, until }),
    }
}

/// A NumericDate (RFC 7519 2), whole seconds of it; none that is no time.
fn seconds(date: Option<f64>) -> Option<u64> {
    let date = date?;
    // 2^53: from there on such numbers are no longer exact.
    (0.0..9_007_199_254_740_992.0).contains(&date).then_some(date as u64)
}

/// A claim as it is kept: for logs, and for comparing with what is blocked.
fn bounded(text: &str) -> String {
    text.chars().take(CLAIM_SIZE_MAX).collect()
}

/// A GUID with what stands before it, or an address; longer ones are told apart by their beginning.
const CLAIM_SIZE_MAX: usize = 128;
