//! A request as the gateway holds it: judged, and ready to be sent to a connection point as often as
//! that is safe.

use std::rc::Rc;

use super::admission::Admitted;
use super::gate::{Gate, InForce};
use super::record::{Account, Asked, Place};
use super::token::{self, Bearer};
use crate::channel::{REQUEST_FIXED_SIZE, RequestStart, RequestWriter, message};
use crate::http::{self, BodyReader, Framing, RequestHead, Version};
use crate::limits;
use crate::mapping::{Endpoint, Family, Found, Path};
use crate::refusal::{Refusal, Refused};
use crate::request_id::RequestId;
use crate::shard::Nested;

/// What became of a head. Elsewhere, so that a client at rest does not hold the room for it.
pub enum Planned {
    /// It goes to a connection point.
    Forward(Nested<Request>),
    /// The gateway answers itself.
    Own(Box<Own>),
}

/// A request that no connection point hears of.
pub struct Own {
    /// How to answer.
    pub manner: Manner,
    /// What will be told of it.
    pub account: Account,
    /// How.
    pub answer: Answer,
}

/// What the gateway says itself.
pub enum Answer {
    /// Turned away; the connection can go on if the manner says so.
    Refused(Refused),
    /// `ServiceMetadata`.
    Metadata,
    /// `AADAuthInfo`: what a client needs to ask its directory for a token, JSON.
    Directory(String),
}

/// What the answer must look like, whoever gives it.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// HTTP/1.0 knows no chunks and no interim answers.
    pub version: Version,
    /// No body is sent in answer to HEAD.
    pub is_head: bool,
    /// The client means to go on with this connection.
    pub keep_alive: bool,
    /// Body bytes follow the head.
    pub has_body: bool,
    /// The client sends the body only after an interim answer.
    pub expects_continue: bool,
    /// Made here, in both logs.
    pub request_id: RequestId,
}

/// See the file's head.
pub struct Request {
    /// How to answer.
    pub manner: Manner,
    /// What will be told of it.
    pub account: Account,
    /// Number of its site.
    pub site: usize,
    /// The connection point tells the origin who the client is.
    pub names_client: bool,
    /// It came by the family for certificates, and the client's is to be judged.
    pub needs_certificate: bool,
    /// Whose token it showed, which was judged already.
    pub bearer: Option<Bearer>,
    /// It counts among those of its client and its endpoint.
    pub admitted: Admitted,
    /// The OPEN message; its identity number is filled in for each channel.
    pub message: Vec<u8>,
    /// Where its body ends.
    pub body: BodyReader,
    /// Body bytes that its endpoint still takes.
    pub length_left: u64,
    /// Its answer may take long: see [`Endpoint::held`].
    pub is_held: bool,
    /// It asks for a tunnel, and its endpoint allows one.
    pub is_tunnel: bool,
    /// It may be sent once more when a channel was lost: idempotent, no body, not marked `once`.
    pub is_repeatable: bool,
    /// The settings it is judged under.
    pub settings: Rc<InForce>,
}

/// Judges a head of `size` octets by everything but the client's identity.
pub fn plan(gate: &Rc<Gate>, head: &RequestHead<'_, '_>, size: usize) -> Planned {
    let manner = Manner {
        version: head.version,
        is_head: head.is_head(),
        keep_alive: head.keep_alive,
        has_body: head.framing.has_body(),
        expects_continue: head.expect_continue && head.framing.has_body() && head.version == Version::Http11,
        request_id: gate.next_request_id(),
    };
    let mut account = Account::new(manner.request_id, gate.shard.now());
    let answer = match judge(gate, head, size, manner, &mut account) {
        Ok(Goal::ConnectionPoint(draft)) => return Planned::Forward(gate.requests.lend(draft.with(account))),
        Ok(Goal::Gateway(answer)) => answer,
        Err(refused) => Answer::Refused(refused),
    };
    if matches!(answer, Answer::Refused(_)) || gate.records.are_complete() {
        account.asked = Some(Box::new(Asked { method: head.method.into(), target: head.target.into() }));
    }
    Planned::Own(Box::new(Own { manner, account, answer }))
}

/// Whose answer a request gets.
enum Goal {
    ConnectionPoint(Draft),
    Gateway(Answer),
}

/// A [`Request`] without its account.
struct Draft {
    manner: Manner,
    site: usize,
    names_client: bool,
    needs_certificate: bool,
    bearer: Option<Bearer>,
    message: Vec<u8>,
    body: BodyReader,
    length_left: u64,
    is_held: bool,
    is_tunnel: bool,
    is_repeatable: bool,
    settings: Rc<InForce>,
}

impl Draft {
    fn with(self, account: Account) -> Request {
        let Draft {
            manner,
            site,
            names_client,
            needs_certificate,
            bearer,
            message,
            body,
            length_left,
            is_held,
            is_tunnel,
            is_repeatable,
            settings,
        } = self;
        Request {
            manner,
            account,
            site,
            names_client,
            needs_certificate,
            bearer,
            admitted: Admitted::default(),
            message,
            body,
            length_left,
            is_held,
            is_tunnel,
            is_repeatable,
            settings,
        }
    }
}

fn judge(
    gate: &Rc<Gate>,
    head: &RequestHead<'_, '_>,
    size: usize,
    manner: Manner,
    account: &mut Account,
) -> Result<Goal, Refused> {
    let settings = gate.in_force();
    let unknown = |refusal| Refused::new(refusal, settings.table.explain(head.target));
    let path = Path::parse(head.target).map_err(unknown)?;
    let (site, endpoint, row, family) = match settings.table.look_up(path).map_err(unknown)? {
        Found::Metadata(_) => return Ok(Goal::Gateway(Answer::Metadata)),
        Found::AadAuthInfo(query) => return token::directory(&settings, query).map(Goal::Gateway),
        Found::ImplicitAuth => return Err(Refused::new(Refusal::InvalidToken, NO_APPROVAL)),
        Found::Endpoint { site, endpoint, place, family, .. } => (site, endpoint, place, family),
    };
    account.place = Some(Place { settings: settings.clone(), site, row, family });
    let length = head.framing.length();
    endpoint
        .admit(head.method, length)
        .map_err(|refusal| Refused::new(refusal, endpoint.explain(head.method, length)))?;
    let needs_certificate = family == Family::MutualAuth;
    let bearer = match family {
        Family::MutualAuth => None,
        Family::ServerAuth => token::judge(gate, &settings, site, endpoint, head)?,
    };
    let protocol = head.upgrade.filter(|_| endpoint.tunnel);
    let message =
        write(gate, head, size, manner, protocol).map_err(|refusal| Refused::new(refusal, TOO_LARGE))?;
    Ok(Goal::ConnectionPoint(Draft {
        manner,
        site,
        // A certificate that came beside a token was judged by nobody.
        names_client: endpoint.forward_identity && needs_certificate,
        needs_certificate,
        bearer,
        message,
        body: BodyReader::new(head.framing),
        length_left: endpoint.request_length_max,
        is_held: endpoint.held || protocol.is_some(),
        is_tunnel: protocol.is_some(),
        is_repeatable: is_repeatable(head, endpoint) && protocol.is_none(),
        settings: settings.clone(),
    }))
}

fn is_repeatable(head: &RequestHead<'_, '_>, endpoint: &Endpoint) -> bool {
    let idempotent = matches!(head.method, b"GET" | b"HEAD" | b"OPTIONS" | b"PROPFIND");
    idempotent && !head.framing.has_body() && !endpoint.once && !endpoint.held
}

fn write(
    gate: &Gate,
    head: &RequestHead<'_, '_>,
    size: usize,
    manner: Manner,
    protocol: Option<&[u8]>,
) -> Result<Vec<u8>, Refusal> {
    // A field takes no more room in a message than in a head.
    let mut message = gate.shard.ring.pool.borrow_mut().slim(REQUEST_FIXED_SIZE + size);
    let start = RequestStart {
        request_id: manner.request_id.0,
        identity: 0,
        window: limits::STREAM_WINDOW_INITIAL as u32,
        has_body: manner.has_body || protocol.is_some(),
        length: match head.framing {
            Framing::None | Framing::Chunked => None,
            Framing::Length(length) => Some(length),
        },
        is_tunnel: protocol.is_some(),
        expect_continue: manner.expects_continue,
        method: head.method,
        target: head.target,
        host: head.host,
    };
    let mut writer = RequestWriter::new(&mut message, &start).map_err(|_| Refusal::HeadTooLarge)?;
    for field in http::forwarded_request_fields(head) {
        writer.field(field.name, field.value).map_err(|_| Refusal::HeadTooLarge)?;
    }
    if let Some(protocol) = protocol {
        writer.field(message::UPGRADE, protocol).map_err(|_| Refusal::HeadTooLarge)?;
    }
    writer.finish();
    Ok(message)
}

const NO_APPROVAL: &str = "approval by mail is not served here";
const TOO_LARGE: &str = "the head does not fit one frame of a channel";
