//! What must hold for any bytes that a process says which would take another's place.

use super::{Duty, Giver, Heard, Message, Role, Taker};
use crate::limits::HANDOVER_MESSAGE_SIZE_MAX;

/// `bytes` as one process says them to the other, in either direction.
///
/// # Panics
/// When a message is not read back as it was written, when the sockets were given away without every step before it
/// or to one that had ended, or when they were taken while the other end may go on.
pub fn handover(bytes: &[u8]) {
    let said = messages(bytes);
    for ends_at in 0..=IN_ORDER.len() {
        give(&said, ends_at);
    }
    take(&said);
}

fn messages(bytes: &[u8]) -> Vec<Message> {
    let (mut rest, mut said) = (bytes, Vec::new());
    while let Ok(taken) = Message::take(rest) {
        let Some((message, size)) = taken else {
            assert!(rest.len() < 2 + HANDOVER_MESSAGE_SIZE_MAX);
            break;
        };
        assert_eq!(Message::take(&rest[..size - 1]), Ok(None), "it is whole with its last byte");
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(Message::take(&again), Ok(Some((message.clone(), again.len()))));
        rest = &rest[size..];
        said.push(message);
    }
    said
}

/// The end that has the sockets hears it; whoever says it ends with the message of this number.
fn give(said: &[Message], ends_at: usize) {
    let (mut giver, mut duties) = (Giver::new(Role::Gateway), Vec::new());
    for (number, message) in said.iter().enumerate() {
        match giver.hear(message, number < ends_at) {
            Ok(duty) => duties.push(duty),
            Err(_) => break,
        }
    }
    assert!(duties.len() <= ends_at, "nothing is given to nobody");
    assert_eq!(duties, IN_ORDER[..duties.len()], "no step is left out");
    assert_eq!(giver.is_gone(), duties.len() == IN_ORDER.len());
    assert_eq!(giver.has_made_way(), (2..4).contains(&duties.len()));
}

/// The end that takes them hears it, and then that the other one ended.
fn take(said: &[Message]) {
    let mut taker = Taker::default();
    let heard = said.iter().take_while(|message| taker.hear(Heard::Said(message)).is_ok()).count();
    assert!(!taker.is_alone(), "it has not ended");
    let is_refused = heard < said.len();
    let is_offered = matches!(said, [Message::Offer(_), Message::Yours]);
    if !is_refused {
        assert_eq!(taker.hear(Heard::End).is_ok(), is_offered);
        assert_eq!(taker.is_alone(), is_offered, "the place was given, and nothing else was said");
    }
}

const IN_ORDER: [Duty; 4] = [Duty::Offer, Duty::MakeWay, Duty::Yield, Duty::Leave];
