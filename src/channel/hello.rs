//! The first two frames of a channel: who dials whom, and whether that is welcome.
//!
//! Fields of version 1 keep their places for ever; later versions append, and readers pass over what
//! follows. So any two versions understand each other's hello. The names are checked against the
//! certificates by the shells.

use super::bytes::{Bytes, put_text};
use super::error::ChannelError;
use super::frame::{self, FrameKind};
use crate::limits::INSTANCE_COUNT_MAX;

/// The version of the protocol spoken here.
pub const VERSION: u16 = 1;

/// What a connection point says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Highest version that it speaks.
    pub version: u16,
    /// Random, one for each start of the connection point; its channels share it.
    pub connection_id: [u8; 16],
    /// Name of the connection point, as in its certificate.
    pub connection_point: String,
    /// Code of its site, as in its certificate.
    pub site: String,
    /// Which of its channels to this instance this is: `index < count`.
    pub index: u16,
    /// Channels it means to hold to this instance.
    pub count: u16,
    /// Shards of the connection point.
    pub connector_shards: u16,
    /// Name of the instance it means to reach; empty while it does not know one. Another closes.
    pub instance: String,
}

/// Why a hello is not welcome. The number is its code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HelloRefusal {
    /// No common version.
    Version = 1,
    /// A live channel has this connection id and index.
    ConnectionIdTaken = 2,
    /// Another instance than the one that was dialled.
    OtherInstance = 3,
    /// The gateway serves no such site.
    UnknownSite = 4,
    /// Name or site differ from the certificate.
    CertificateMismatch = 5,
    /// The instance is draining.
    Draining = 6,
    /// The instance has as many channels as it takes.
    Full = 7,
    /// Index and count make no sense.
    Placement = 8,
    /// A code that this version does not know. Never sent.
    Unknown = 255,
}

impl HelloRefusal {
    fn from_byte(byte: u8) -> HelloRefusal {
        match byte {
            1 => HelloRefusal::Version,
            2 => HelloRefusal::ConnectionIdTaken,
            3 => HelloRefusal::OtherInstance,
            4 => HelloRefusal::UnknownSite,
            5 => HelloRefusal::CertificateMismatch,
            6 => HelloRefusal::Draining,
            7 => HelloRefusal::Full,
            8 => HelloRefusal::Placement,
            _ => HelloRefusal::Unknown,
        }
    }
}

/// The instance's answer. Unless `refusal` is `None`, the connection is closed behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The version to be spoken.
    pub version: u16,
    /// Why not, if so.
    pub refusal: Option<HelloRefusal>,
    /// Text for the other side's log.
    pub text: String,
    /// Name of the instance.
    pub instance: String,
    /// Random, one for each start of the instance.
    pub instance_id: [u8; 16],
    /// Shards of the instance.
    pub shards: u16,
    /// The shard that takes this channel.
    pub shard: u16,
    /// Every instance of the gateway, as `host:port` of its channel listener.
    pub instances: Vec<String>,
}

impl Hello {
    /// Appends the hello as one frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(128);
        payload.extend_from_slice(&self.version.to_be_bytes());
        payload.extend_from_slice(&self.connection_id);
        for number in [self.index, self.count, self.connector_shards] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        for text in [&self.connection_point, &self.site, &self.instance] {
            put_text(&mut payload, text);
        }
        frame::put(out, FrameKind::Hello, 0, &payload);
    }

    /// Reads the payload of a HELLO frame.
    pub fn parse(payload: &[u8]) -> Result<Hello, ChannelError> {
        let hello = Hello::read(payload).ok_or(malformed("too short, or not UTF-8"))?;
        if hello.version == 0 || hello.index >= hello.count || hello.connector_shards == 0 {
            return Err(malformed("a number out of its range"));
        }
        if hello.connection_point.is_empty() || hello.site.is_empty() {
            return Err(malformed("a name is missing"));
        }
        let names = [&hello.connection_point, &hello.site, &hello.instance];
        if !names.into_iter().all(|name| is_visible(name)) {
            return Err(malformed("a name with blanks or control characters"));
        }
        Ok(hello)
    }

    fn read(payload: &[u8]) -> Option<Hello> {
        let mut bytes = Bytes(payload);
        Some(Hello {
            version: bytes.u16()?,
            connection_id: bytes.array()?,
            index: bytes.u16()?,
            count: bytes.u16()?,
            connector_shards: bytes.u16()?,
            connection_point: bytes.text()?.to_owned(),
            site: bytes.text()?.to_owned(),
            instance: bytes.text()?.to_owned(),
        })
    }
}

impl HelloReply {
    /// Appends the reply as one frame. Instances beyond `limits::INSTANCE_COUNT_MAX` are left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(256);
        payload.extend_from_slice(&self.version.to_be_bytes());
        payload.push(self.refusal.map_or(0, |refusal| refusal as u8));
        payload.extend_from_slice(&self.instance_id);
        for number in [self.shards, self.shard] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        put_text(&mut payload, &self.instance);
        put_text(&mut payload, &self.text);
        let listed = &self.instances[..self.instances.len().min(INSTANCE_COUNT_MAX)];
        payload.push(listed.len() as u8);
        for address in listed {
            put_text(&mut payload, address);
        }
        frame::put(out, FrameKind::HelloReply, 0, &payload);
    }

    /// Reads the payload of a HELLO_REPLY frame.
    pub fn parse(payload: &[u8]) -> Result<HelloReply, ChannelError> {
        let reply = HelloReply::read(payload).ok_or(malformed_reply("too short, or not UTF-8"))?;
        if reply.refusal.is_none() && (reply.version == 0 || reply.shard >= reply.shards) {
            return Err(malformed_reply("a number out of its range"));
        }
        if reply.instances.len() > INSTANCE_COUNT_MAX {
            return Err(malformed_reply("too many instances"));
        }
        if !is_visible(&reply.instance) || !reply.instances.iter().all(|address| is_visible(address)) {
            return Err(malformed_reply("a name with blanks or control characters"));
        }
        Ok(reply)
    }

    fn read(payload: &[u8]) -> Option<HelloReply> {
        let mut bytes = Bytes(payload);
        let version = bytes.u16()?;
        let code = bytes.u8()?;
        Some(HelloReply {
            version,
            refusal: (code != 0).then(|| HelloRefusal::from_byte(code)),
            instance_id: bytes.array()?,
            shards: bytes.u16()?,
            shard: bytes.u16()?,
            instance: bytes.text()?.to_owned(),
            text: bytes.text()?.to_owned(),
            instances: {
                let count = bytes.u8()?;
                (0..count).map(|_| bytes.text().map(str::to_owned)).collect::<Option<_>>()?
            },
        })
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn malformed(what: &'static str) -> ChannelError {
    ChannelError::Malformed(FrameKind::Hello, what)
}

fn malformed_reply(what: &'static str) -> ChannelError {
    ChannelError::Malformed(FrameKind::HelloReply, what)
}
