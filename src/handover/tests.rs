use super::*;
use crate::seeded;

fn hello(version: u16, role: Role) -> Message {
    Message::Hello(Hello { version, role })
}

fn offer() -> Message {
    let sockets = vec![
        (SocketKind::Clients, "0.0.0.0:443".parse().unwrap()),
        (SocketKind::Clients, "[::]:443".parse().unwrap()),
        (SocketKind::Channels, "[fe80::1%3]:10140".parse().unwrap()),
        (SocketKind::Admin, "127.0.0.1:9140".parse().unwrap()),
        (SocketKind::Health, "10.0.0.1:0".parse().unwrap()),
    ];
    Message::Offer(Offer { is_ready: true, points: 513, sockets })
}

fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut bytes));
    bytes
}

#[test]
fn messages_are_read_as_they_were_written() {
    let all = [
        hello(1, Role::Connector),
        offer(),
        Message::Refused("it is stopping".into()),
        Message::Started,
        Message::Ready,
        Message::Yours,
        Message::Taken,
    ];
    let bytes = encoded(&all);
    let mut rest = &bytes[..];
    for message in &all {
        let (read, size) = Message::take(rest).unwrap().unwrap();
        assert_eq!(read, *message);
        rest = &rest[size..];
    }
    assert_eq!(Message::take(rest), Ok(None));
}

#[test]
fn what_a_later_version_appends_is_passed_over() {
    let bytes = [0, 7, 1, 0, 2, 1, 9, 9, 9];
    assert_eq!(Message::take(&bytes), Ok(Some((hello(2, Role::Gateway), 9))));
}

#[test]
fn bytes_that_are_no_message_are_told() {
    let malformed = |name| Err(HandoverError::Malformed(name));
    let rows: [(&[u8], _); 9] = [
        (&[0, 0], malformed("without a kind")),
        (&[0x10, 0x01], Err(HandoverError::TooLong(0x1001))),
        (&[0, 1, 0], Err(HandoverError::Unknown(0))),
        (&[0, 1, 8], Err(HandoverError::Unknown(8))),
        (&[0, 3, 1, 0, 1], malformed("HELLO")),
        (&[0, 4, 1, 0, 1, 3], malformed("HELLO")),
        (&[0, 5, 2, 2, 0, 0, 0], malformed("OFFER")),
        // One socket announced, and none there.
        (&[0, 5, 2, 1, 0, 0, 1], malformed("OFFER")),
        (&[0, 2, 3, 0xFF], malformed("REFUSED")),
    ];
    for (bytes, expected) in rows {
        assert_eq!(Message::take(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn a_refusal_of_any_length_fits() {
    let bytes = encoded(&[Message::Refused("ä".repeat(5_000))]);
    let (Message::Refused(text), _) = Message::take(&bytes).unwrap().unwrap() else { panic!() };
    assert_eq!(text, "ä".repeat(512));
}

#[test]
fn sockets_are_given_away_step_by_step() {
    let mut giver = Giver::new(Role::Gateway);
    assert!(giver.is_waiting());
    let steps = [
        (hello(VERSION, Role::Gateway), Duty::Offer, false),
        (Message::Started, Duty::MakeWay, true),
        (Message::Ready, Duty::Yield, true),
        (Message::Taken, Duty::Leave, false),
    ];
    for (message, duty, has_made_way) in steps {
        assert!(!giver.is_gone());
        assert_eq!(giver.hear(&message, false), Err(HandoverError::Gone), "to nobody");
        assert_eq!(giver.hear(&message, true), Ok(duty));
        assert_eq!(giver.has_made_way(), has_made_way, "{message:?}");
        assert!(!giver.is_waiting());
    }
    assert!(giver.is_gone());
}

#[test]
fn whoever_is_no_successor_is_told_why() {
    let rows = [
        (hello(2, Role::Gateway), HandoverError::Version(2)),
        (hello(VERSION, Role::Connector), HandoverError::Role(Role::Connector, Role::Gateway)),
        (Message::Taken, HandoverError::Order { said: "TAKEN", expected: "HELLO" }),
        (offer(), HandoverError::Order { said: "OFFER", expected: "HELLO" }),
    ];
    for (message, error) in rows {
        let mut giver = Giver::new(Role::Gateway);
        assert_eq!(giver.hear(&message, true), Err(error));
        assert_eq!(giver.hear(&hello(VERSION, Role::Gateway), true), Ok(Duty::Offer), "nothing has changed");
    }
}

#[test]
fn a_place_is_taken_when_its_owner_ends_without_a_word_after_giving_it() {
    let (offer, yours, refused) = (offer(), Message::Yours, Message::Refused("too late".into()));
    let [offer, yours, refused] = [&offer, &yours, &refused].map(Heard::Said);
    let why = NotTaken::Refused("too late".into());
    let rows: [(&[Heard<'_>], _); 9] = [
        (&[offer, yours, Heard::End], Ok(())),
        (&[offer, yours, refused], Err(why.clone())),
        (&[offer, yours, Heard::Nothing], Err(NotTaken::Silent("whether it leaves"))),
        (&[offer, yours, yours], Err(NotTaken::Order { said: "YOURS", expected: "whether it leaves" })),
        (&[offer, Heard::End], Err(NotTaken::Ended("YOURS"))),
        (&[offer, refused], Err(why.clone())),
        (&[Heard::End], Err(NotTaken::Ended("OFFER"))),
        (&[refused], Err(why)),
        (&[yours], Err(NotTaken::Order { said: "YOURS", expected: "OFFER" })),
    ];
    for (heard, expected) in rows {
        let mut taker = Taker::default();
        let outcome = heard.iter().try_for_each(|heard| taker.hear(*heard));
        assert_eq!(outcome, expected, "{heard:?}");
        assert_eq!(taker.is_alone(), expected.is_ok());
    }
}

#[test]
fn seeds_are_what_is_said_today() {
    let new = [hello(VERSION, Role::Gateway), Message::Started, Message::Ready, Message::Taken];
    let old = [offer(), Message::Yours, Message::Refused("it is stopping".into())];
    let gives = [offer(), Message::Yours];
    let seeds = [("new", encoded(&new)), ("old", encoded(&old)), ("gives", encoded(&gives))];
    seeded::keep("handover", &seeds);
}

#[test]
fn seeded_words_give_nothing_away_out_of_turn() {
    seeded::run("handover", 4_000, fuzz::handover);
}
