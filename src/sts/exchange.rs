//! What is given for what is shown, decided from facts and the time; nothing here signs or listens.
//!
//! For a good token, or a certificate that a connection point vouches for, there is a token of the session (CCM) for
//! one working day, and no longer than what was shown lives. Who has no token of its own yet, for it came with one
//! that was handed out in bulk, gets that too, and a new name with it: what a device says it is called is not
//! believed. Who has one that was given here gets a new one whenever it shows it, so that a device that comes within 90
//! days stays known. What others name a device stands behind their own name: nobody's subject can be that of
//! somebody whom another issuer knows.

use serde_json::{Value, json};

use crate::auth::token::{
    AUDIENCE, AUTHORITY, CATEGORY_PRE_AUTH, CATEGORY_SESSION, TokenFacts, TokenKind, issuer_of,
};
use crate::limits::{TOKEN_CCM_LIFE_MAX, TOKEN_CLIENT_LIFE_MAX, TOKEN_GIVEN_FOR_MAX};

/// What proves who asks.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'s> {
    /// A token that is good, and whether it was given in the name of this hierarchy.
    Token(&'s TokenFacts, bool),
    /// SHA-256 of a certificate and of those that are as good (`auth::thumbprints`), and when it ends (seconds
    /// since 1970).
    Certificate(&'s [[u8; 32]], u64),
}

/// Claims of what is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// Who it is for, from now on.
    pub device: String,
    /// Of the session's token.
    pub session: Value,
    /// Seconds that one lives.
    pub session_life: u64,
    /// Of the device's own token, where it gets one.
    pub client: Option<Value>,
}

/// Good, and nothing is given for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotExchanged {
    /// It came from here and is not exchanged again.
    #[error("a token of kind {0}; expected registration, client or directory")]
    Kind(TokenKind),
    /// It is taken a little longer, for clocks differ; what would be given for it has ended, too.
    #[error("it has ended by the clock of the token service; expected one that lives")]
    Ended,
}

/// What is given by the service of `hierarchy` at `now` (seconds since 1970). `guid` makes random ones, of which
/// three are used at most.
///
/// # Errors
/// See [`NotExchanged`], or what `guid` says.
pub fn exchange<E: From<NotExchanged>>(
    hierarchy: &str,
    shown: Shown<'_>,
    now: u64,
    mut guid: impl FnMut() -> Result<String, E>,
) -> Result<Given, E> {
    let (device, until, user, names) = match shown {
        Shown::Certificate(thumbprints, until) => {
            let mut names = thumbprints.iter().map(|one| format!("SHA256:{}", hex(one)));
            let device = names.next().ok_or(NotExchanged::Ended)?;
            (device, until, "", names.collect::<Vec<_>>())
        }
        Shown::Token(facts, is_own) => {
            let device = match facts.kind {
                TokenKind::Registration => format!("GUID:{}", guid()?),
                TokenKind::Client if is_own => facts.subject.clone(),
                TokenKind::Client | TokenKind::Directory => format!("{}:{}", facts.issuer, facts.subject),
                TokenKind::Ccm => return Err(NotExchanged::Kind(facts.kind).into()),
            };
            (
                device,
                facts.valid.until,
                facts.user.as_str(),
                facts.names.iter().map(ToString::to_string).collect(),
            )
        }
    };
    let left = until.saturating_sub(now);
    if left == 0 {
        return Err(NotExchanged::Ended.into());
    }
    let claims = |kind: [&str; 2], life: u64, id: String| {
        json!({
            "SCCMTokenCategory": kind[0], "Authority": AUTHORITY, "License": AUTHORITY, "Type": kind[1],
            "TenantId": hierarchy.to_ascii_uppercase(), "UniqueId": id, "DeviceId": device,
            "iss": issuer_of(hierarchy), "aud": AUDIENCE, "nbf": now, "exp": now + life,
        })
    };
    let session_life = left.min(TOKEN_CCM_LIFE_MAX.as_secs());
    let kind = if user.is_empty() { "DA" } else { "UDA" };
    let mut session = claims([CATEGORY_SESSION, kind], session_life, guid()?);
    if !user.is_empty() {
        session["UserId"] = user.into();
    }
    // Who is blocked by any of these is blocked with the session, too.
    session["GivenFor"] = latest_and_first(names).into();
    let gets_own = match shown {
        Shown::Token(facts, is_own) => match facts.kind {
            TokenKind::Registration => true,
            TokenKind::Client => is_own,
            TokenKind::Directory | TokenKind::Ccm => false,
        },
        Shown::Certificate(..) => false,
    };
    let client = if gets_own {
        let mut client = claims([CATEGORY_PRE_AUTH, TYPE_CLIENT], TOKEN_CLIENT_LIFE_MAX.as_secs(), guid()?);
        let before = before(shown, &device);
        if !before.is_empty() {
            client["GivenFor"] = before.into();
        }
        Some(client)
    } else {
        None
    };
    Ok(Given { session, session_life, client, device })
}

/// The ids of the tokens of its own that a device had before the one it gets now: who blocks one of them blocks
/// what it led to. Of more than there is room for the latest, and the first of all.
fn before<'s>(shown: Shown<'s>, device: &str) -> Vec<&'s str> {
    let Shown::Token(TokenFacts { kind: TokenKind::Client, names, .. }, _) = shown else { return Vec::new() };
    latest_and_first(names.iter().map(|name| &**name).filter(|name| *name != device).collect())
}

/// As many of these names, the latest in front, as there is room for, and the first of all among them.
fn latest_and_first<N>(mut names: Vec<N>) -> Vec<N> {
    if names.len() > TOKEN_GIVEN_FOR_MAX {
        names.drain(TOKEN_GIVEN_FOR_MAX - 1..names.len() - 1);
    }
    names
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `Type` of a device's own token; ours, for no published text shows it.
const TYPE_CLIENT: &str = "Client";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::auth::Validity;

    const NOW: u64 = 1_700_000_000;
    const HIERARCHY: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

    fn facts(kind: TokenKind, age: u64, left: u64, user: &str) -> TokenFacts {
        TokenFacts {
            kind,
            issuer: "x".into(),
            subject: "GUID:7".into(),
            tenant: HIERARCHY.into(),
            id: "parent".into(),
            user: user.into(),
            names: ["parent".into(), "GUID:7".into()].into(),
            label: String::new(),
            valid: Validity { from: NOW - age, until: NOW + left },
        }
    }

    fn ask(shown: Shown<'_>) -> Result<Given, NotExchanged> {
        let mut made = 0;
        exchange(HIERARCHY, shown, NOW, || {
            made += 1;
            Ok::<_, NotExchanged>(format!("G{made}"))
        })
    }

    #[test]
    fn each_kind_gets_what_it_is_due() {
        const DAY: u64 = 24 * 60 * 60;
        let rows = [
            // Kind, of this hierarchy, age, time left; device, life of the session, whether it gets a token of its own.
            (TokenKind::Registration, true, 10, 3 * DAY, "GUID:G1", 28_800, true),
            (TokenKind::Registration, true, 10, 600, "GUID:G1", 600, true),
            (TokenKind::Registration, false, 10, 3 * DAY, "GUID:G1", 28_800, true),
            (TokenKind::Client, true, 0, 90 * DAY, "GUID:7", 28_800, true),
            (TokenKind::Client, true, DAY, 89 * DAY, "GUID:7", 28_800, true),
            (TokenKind::Client, true, 89 * DAY, 1, "GUID:7", 1, true),
            (TokenKind::Client, false, DAY, 89 * DAY, "x:GUID:7", 28_800, false),
            (TokenKind::Directory, false, 10, 3_600, "x:GUID:7", 3_600, false),
        ];
        for (kind, is_own, age, left, device, life, gets_own) in rows {
            let facts = facts(kind, age, left, "");
            let given = ask(Shown::Token(&facts, is_own)).unwrap();
            let row = format!("{kind} {is_own} {age} {left}");
            assert_eq!((given.device.as_str(), given.session_life), (device, life), "{row}");
            assert_eq!(given.client.is_some(), gets_own, "{row}");
            let session = &given.session;
            assert_eq!((&session["DeviceId"], &session["Type"]), (&json!(device), &json!("DA")), "{row}");
            assert_eq!(session["exp"].as_u64().unwrap() - session["nbf"].as_u64().unwrap(), life, "{row}");
            assert_eq!(
                session["GivenFor"],
                json!(["parent", "GUID:7"]),
                "what blocks the one blocks the other"
            );
            assert_eq!(session["iss"], format!("urn:sccm:oauth2:{HIERARCHY}"));
            if let Some(client) = given.client {
                assert_eq!(client["DeviceId"], device, "{row}");
                match kind {
                    TokenKind::Client => assert_eq!(client["GivenFor"], json!(["parent"]), "{row}"),
                    _ => {
                        assert!(client.get("GivenFor").is_none(), "a device outlives the token it came with")
                    }
                }
                assert_ne!(client["UniqueId"], session["UniqueId"]);
            }
        }
    }

    #[test]
    fn a_token_is_blocked_with_any_that_led_to_it() {
        let mut facts = facts(TokenKind::Client, 0, 1_000, "");
        for renewal in 0..20 {
            let Given { session, client, .. } = ask(Shown::Token(&facts, true)).unwrap();
            let client = client.unwrap();
            let of_session = session["GivenFor"].as_array().unwrap();
            assert!(of_session.contains(&json!("parent")) && of_session.len() <= TOKEN_GIVEN_FOR_MAX);
            assert_eq!(of_session[0], facts.names[0].as_ref());
            let given_for: Vec<_> = client["GivenFor"].as_array().unwrap().clone();
            assert!(given_for.contains(&json!("parent")) && given_for.len() <= TOKEN_GIVEN_FOR_MAX);
            assert_eq!(given_for[0], facts.names[0].as_ref(), "the latest, too");
            // As the claims of the next one are read.
            let own = [format!("id {renewal}"), "GUID:7".to_owned()];
            let above = given_for.iter().map(|id| id.as_str().unwrap().to_owned());
            facts.names = own.into_iter().chain(above).map(String::into_boxed_str).collect();
        }
    }

    #[test]
    fn a_user_goes_with_the_session_and_a_certificate_has_a_name_of_its_own() {
        let facts = facts(TokenKind::Directory, 10, 99_999, "u@corp");
        let given = ask(Shown::Token(&facts, false)).unwrap();
        assert_eq!((&given.session["Type"], &given.session["UserId"]), (&json!("UDA"), &json!("u@corp")));
        for (left, life) in [(99_999, 28_800), (60, 60)] {
            let given = ask(Shown::Certificate(&[[0xab; 32], [0xcd; 32]], NOW + left)).unwrap();
            assert_eq!(given.device, format!("SHA256:{}", "ab".repeat(32)));
            let twin = format!("SHA256:{}", "cd".repeat(32));
            assert_eq!(given.session["GivenFor"], json!([twin]), "it is blocked by either");
            assert_eq!((given.session_life, &given.client), (life, &None));
            assert!(given.session.get("UserId").is_none());
        }
    }

    #[test]
    fn what_has_ended_and_a_token_of_the_session_get_nothing() {
        let session = facts(TokenKind::Ccm, 10, 99_999, "");
        assert_eq!(ask(Shown::Token(&session, true)), Err(NotExchanged::Kind(TokenKind::Ccm)));
        let ended = facts(TokenKind::Client, 10, 0, "");
        assert_eq!(ask(Shown::Token(&ended, true)), Err(NotExchanged::Ended));
        assert_eq!(ask(Shown::Certificate(&[[0; 32]], NOW)), Err(NotExchanged::Ended));
    }
}
