//! What a ClientHello says of having been here before: the ticket it shows. And which protocols it offers.
//!
//! Pure, and believed in nothing but the order of a line (`handshakes.rs`) and who shall answer, the side that asks
//! for certificates of clients or that for connection points: rustls reads the same bytes again and alone decides
//! what the handshake is. So a hello that this reader does not follow, because it is spread over records or
//! broken, is one that shows nothing.

/// Bytes of a record's header, and of a handshake message's.
const HEADER_SIZE: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_SIZE_MAX: usize = 1 << 14;
const ALPN: u16 = 16;
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;

/// What the first bytes of a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello<'a> {
    /// The beginning of a first record: nothing can be done with it yet.
    Partial,
    /// A first record, or something that will never be one.
    Whole {
        /// What the client got from whoever it spoke with before, us or another.
        ticket: Option<&'a [u8]>,
        /// The protocols it offers, as they stand there (RFC 7301 3.1); empty: none.
        protocols: &'a [u8],
    },
}

impl Hello<'_> {
    /// Looks at the bytes that came first. What lies behind the first record does not matter.
    pub fn read(bytes: &[u8]) -> Hello<'_> {
        let Some(header) = bytes.first_chunk::<HEADER_SIZE>() else {
            let begins = bytes.first().is_none_or(|kind| *kind == HANDSHAKE);
            return if begins { Hello::Partial } else { NOTHING };
        };
        let size = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE || size > RECORD_SIZE_MAX {
            return NOTHING;
        }
        match bytes.get(HEADER_SIZE..HEADER_SIZE + size) {
            None => Hello::Partial,
            Some(record) => shown(record).unwrap_or(NOTHING),
        }
    }

    /// Whether this protocol is among those it offers.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        let Hello::Whole { mut protocols, .. } = *self else { return false };
        while let Some(offered) = vector8(&mut protocols) {
            if offered == protocol {
                return true;
            }
        }
        false
    }
}

const NOTHING: Hello<'static> = Hello::Whole { ticket: None, protocols: &[] };

/// Of tickets the first of TLS 1.3, else that of TLS 1.2.
fn shown(record: &[u8]) -> Option<Hello<'_>> {
    let mut rest = record;
    let [CLIENT_HELLO, high, middle, low] = *take(&mut rest, 4)? else { return None };
    let size = u32::from_be_bytes([0, high, middle, low]) as usize;
    let mut rest = rest.get(..size)?;
    // Version and random.
    take(&mut rest, 2 + 32)?;
    let _session = vector8(&mut rest)?;
    let _suites = vector16(&mut rest)?;
    let _compression = vector8(&mut rest)?;
    let mut extensions = vector16(&mut rest)?;
    let (mut old, mut protocols): (_, &[u8]) = (None, &[]);
    while !extensions.is_empty() {
        let kind = number(&mut extensions)?;
        let mut content = vector16(&mut extensions)?;
        match kind {
            ALPN => protocols = vector16(&mut content)?,
            SESSION_TICKET if !content.is_empty() => old = Some(content),
            PRE_SHARED_KEY => {
                let mut identities = vector16(&mut content)?;
                let ticket = vector16(&mut identities).filter(|identity| !identity.is_empty());
                return Some(Hello::Whole { ticket, protocols });
            }
            _ => {}
        }
    }
    Some(Hello::Whole { ticket: old, protocols })
}

fn take<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(size)?;
    *rest = left;
    Some(taken)
}

fn number(rest: &mut &[u8]) -> Option<u16> {
    take(rest, 2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
}

fn vector8<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let size = take(rest, 1)?[0];
    take(rest, size.into())
}

fn vector16<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let size = number(rest)?;
    take(rest, size.into())
}
