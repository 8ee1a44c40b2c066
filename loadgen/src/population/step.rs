//! One request of a scenario, as a row of a table: what is asked, of whom, with which fields, and what must come back.
//!
//! Rows know no client and no time; `population/request.rs` makes bytes of them.

use super::catalogue::Reply;

/// What a request is, in the words in which the traffic of real populations is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Signing in for client notification, and waiting for one.
    Notification,
    /// A message (`CCM_POST`).
    Message,
    /// Policies, locations, packages: small GETs.
    Get,
    /// Tokens, and the gateway's own answers.
    Token,
    /// One packet of an upload.
    Upload,
    /// Update scans, and parts of files.
    Content,
}

impl Kind {
    /// All of them, with their names and the part (percent) that each has in the suggested mix.
    pub const ALL: [(Kind, &'static str, f64); 6] = [
        (Kind::Notification, "notifications", 45.0),
        (Kind::Message, "messages", 30.0),
        (Kind::Get, "policies and locations", 12.0),
        (Kind::Token, "tokens", 5.0),
        (Kind::Upload, "upload packets", 5.0),
        (Kind::Content, "scans and content", 3.0),
    ];
}

/// First segment of the URL: how the client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// With its certificate.
    Mutual,
    /// With a token.
    Server,
}

/// Who is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A management point.
    ManagementPoint,
    /// A software update point.
    UpdatePoint,
    /// The gateway itself: no role id in the URL.
    Gateway,
}

/// Which program of a client asks: it decides `User-Agent` and the usual fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// The client's messaging.
    Messaging,
    /// The client's other requests.
    Client,
    /// The background transfer service.
    Transfer,
    /// A task sequence.
    TaskSequence,
    /// The update agent.
    Update,
    /// The client's setup.
    Setup,
}

/// What proves the client beside the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    None,
    /// `Authorization: Bearer`, with what the directory gave.
    Token,
    /// The same with a registration token of the site, until the token service gave another.
    Registration,
    /// `CCMClientID` and its signatures.
    Signed,
    /// `ClientToken` and its signature, as for policy bodies.
    Policy,
}

/// What goes with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    None,
    /// A message of two parts to this endpoint, the second of so many bytes.
    Message(&'static str, usize),
    /// A packet of an upload.
    Packet(Packet),
    /// A SOAP call with so many bytes of parameters; the text is its action.
    Soap(&'static str, usize),
    /// A notification message of this class.
    Notice(&'static str),
}

/// A packet of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Is somebody there?
    Ping,
    /// Begin.
    Create,
    /// From the first to the last byte, of so many.
    Fragment(u64, u64, u64),
    /// That was all.
    Close,
}

/// How long the request may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It is answered at once.
    No,
    /// Until the keep-alive time is over.
    Quiet,
    /// A notification comes.
    Push,
}

/// One request of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is called within its feature.
    pub name: &'static str,
    /// What it counts as.
    pub kind: Kind,
    /// Its method.
    pub method: &'static str,
    /// Under which family.
    pub family: Family,
    /// Of which role.
    pub role: Role,
    /// Below the role; `{client}` is the client's id.
    pub path: &'static str,
    /// Who asks.
    pub agent: Agent,
    /// With which proof.
    pub proof: Proof,
    /// With what.
    pub payload: Payload,
    /// `Range`: first and last byte.
    pub range: Option<(u64, u64)>,
    /// How long it may take.
    pub hold: Hold,
    /// What must come back.
    pub reply: Reply,
}

impl Step {
    const fn new(
        name: &'static str,
        kind: Kind,
        method: &'static str,
        path: &'static str,
        reply: Reply,
    ) -> Self {
        Self {
            name,
            kind,
            method,
            family: Family::Mutual,
            role: Role::ManagementPoint,
            path,
            agent: Agent::Client,
            proof: Proof::None,
            payload: Payload::None,
            range: None,
            hold: Hold::No,
            reply,
        }
    }

    /// A GET of something small.
    pub const fn get(name: &'static str, path: &'static str, reply: Reply) -> Self {
        Self::new(name, Kind::Get, "GET", path, reply)
    }

    /// A message to an endpoint of the management point.
    pub const fn message(name: &'static str, endpoint: &'static str, size: usize, reply: Reply) -> Self {
        let step = Self::new(name, Kind::Message, "CCM_POST", "/CCM_System/request", reply);
        Self { agent: Agent::Messaging, payload: Payload::Message(endpoint, size), ..step }
    }

    /// A packet of an upload.
    pub const fn packet(name: &'static str, packet: Packet) -> Self {
        let step = Self::new(name, Kind::Upload, "BITS_POST", "/CCM_Incoming/{client}.mif", Reply::Ack);
        Self { agent: Agent::Transfer, payload: Payload::Packet(packet), ..step }
    }

    /// A call of a web service.
    pub const fn soap(
        name: &'static str,
        path: &'static str,
        action: &'static str,
        size: usize,
        reply: Reply,
    ) -> Self {
        let step = Self::new(name, Kind::Content, "POST", path, reply);
        Self { agent: Agent::Update, role: Role::UpdatePoint, payload: Payload::Soap(action, size), ..step }
    }

    /// A notification request.
    pub const fn notice(
        name: &'static str,
        path: &'static str,
        class: &'static str,
        hold: Hold,
        reply: Reply,
    ) -> Self {
        let step = Self::new(name, Kind::Notification, "POST", path, reply);
        Self { payload: Payload::Notice(class), hold, ..step }
    }

    /// What a file is: its length and its tag.
    pub const fn head(name: &'static str, path: &'static str, reply: Reply) -> Self {
        Self { agent: Agent::Transfer, ..Self::new(name, Kind::Content, "HEAD", path, reply) }
    }

    /// A part of a file.
    pub const fn part(name: &'static str, path: &'static str, first: u64, last: u64, reply: Reply) -> Self {
        let step = Self::new(name, Kind::Content, "GET", path, reply);
        Self { agent: Agent::Transfer, range: Some((first, last)), ..step }
    }

    /// The same under the family for tokens, with one.
    pub const fn with_token(self) -> Self {
        Self { family: Family::Server, proof: Proof::Token, ..self }
    }

    /// The same under the family for tokens, with one for registration.
    pub const fn with_registration_token(self) -> Self {
        Self { family: Family::Server, proof: Proof::Registration, ..self }
    }

    /// The same of another role.
    pub const fn of(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// The same at another path.
    pub const fn at(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    /// The same, proved.
    pub const fn proved(self, proof: Proof) -> Self {
        Self { proof, ..self }
    }

    /// The same, asked by another program.
    pub const fn by(self, agent: Agent) -> Self {
        Self { agent, ..self }
    }

    /// The same, counted as something else.
    pub const fn counted(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The same with another method.
    pub const fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    /// Whether it shows a token.
    pub fn shows_token(&self) -> bool {
        matches!(self.proof, Proof::Token | Proof::Registration)
    }

    /// The status that must come back.
    pub fn status(&self) -> u16 {
        if self.range.is_some() { 206 } else { self.reply.row().status }
    }

    /// Bytes of the answer, or those a HEAD announces; `None` when the gateway says what it likes.
    pub fn size(&self) -> Option<u64> {
        match (self.reply, self.range) {
            (Reply::Gateway, _) => None,
            (_, Some((first, last))) => Some(last - first + 1),
            (reply, None) => Some(reply.row().shape.size),
        }
    }
}
