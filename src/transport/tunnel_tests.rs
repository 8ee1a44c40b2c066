//! Tunnels on a real ring, between a peer in a plain thread and a stream of another shard that is played.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::channel::ResetCode;
use crate::shard::{self, Place, Slots, Socket};
use crate::transport::{CrossMessage, Crossing};

/// How a tunnel ended, the bytes that passed in it, and what was sent on its stream.
struct Told {
    end: Result<(), Broke>,
    bytes: [u64; 2],
    sent: Vec<u8>,
    has_ended: bool,
    after: Duration,
}

/// Runs a tunnel whose stream is told `messages` at once; the wire's other end is given back besides.
fn run(
    patience: Patience,
    messages: impl FnOnce(u64) -> Vec<CrossMessage> + Send + 'static,
) -> (TcpStream, mpsc::Receiver<Told>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    let (tell, told) = mpsc::channel();
    let place = Place { index: 0, cpu: shard::allowed_cpus()[0], slots: 64, owner: Slots::ByRing };
    shard::start(place, move |shard| {
        let sent: Rc<RefCell<Vec<CrossMessage>>> = Rc::default();
        let said = sent.clone();
        let crossing =
            Crossing::new(0, &shard.ring, Box::new(move |_, _, message| said.borrow_mut().push(message)));
        let mut wire = Wire::new(Socket::adopt(&shard.ring, near.into()).unwrap(), None);
        let main = async move {
            let (exchange, stream) = crossing.begin(1);
            messages(exchange).into_iter().for_each(|message| crossing.handle(1, message));
            let (began, deadline) = (Instant::now(), shard.deadline());
            let mut tunnel = Tunnel::new(&mut wire, &stream, Ends::Said);
            let end = tunnel.carry(&shard, &deadline, patience).await;
            let bytes = [tunnel.bytes_in, tunnel.bytes_out];
            let (mut data, mut has_ended) = (Vec::new(), false);
            for message in sent.borrow().iter() {
                match message {
                    CrossMessage::Data(_, bytes) => data.extend_from_slice(bytes),
                    CrossMessage::End(..) => has_ended = true,
                    _ => {}
                }
            }
            let _ = tell.send(Told { end, bytes, sent: data, has_ended, after: began.elapsed() });
        };
        (|| 0, main)
    })
    .unwrap();
    (far, told)
}

const LONG: Duration = Duration::from_secs(20);

fn patience(idle: u64, taking: u64) -> Patience {
    Patience { idle: Duration::from_secs(idle), taking: Duration::from_secs(taking) }
}

#[track_caller]
fn silent(told: &Told) -> &str {
    let Err(Broke::Silent(cause)) = &told.end else { panic!("{:?}", told.end) };
    cause
}

#[test]
fn a_tunnel_lives_as_long_as_something_moves() {
    let (mut far, told) = run(patience(1, 60), |_| Vec::new());
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(600));
        far.write_all(b"here").unwrap();
    }
    let told = told.recv_timeout(LONG).unwrap();
    assert_eq!(silent(&told), "nothing passed through the tunnel for 1 s");
    assert!((3_400..6_000).contains(&told.after.as_millis()), "{:?}", told.after);
    assert_eq!(
        (told.bytes, told.sent.as_slice(), told.has_ended),
        ([16, 0], &b"herehereherehere"[..], false)
    );
}

#[test]
fn a_peer_that_takes_nothing_is_given_up_before_one_that_says_nothing() {
    const SIZE: usize = 32 << 20;
    let (far, told) =
        run(patience(60, 1), |exchange| vec![CrossMessage::AnswerData(exchange, vec![7; SIZE])]);
    let told = told.recv_timeout(LONG).unwrap();
    assert_eq!(silent(&told), "nothing was taken of what waits at the end of the tunnel for 1 s");
    assert!(told.bytes[1] < SIZE as u64);
    drop(far);
}

#[test]
fn what_came_before_a_break_is_passed_on() {
    let broken = Broken::Reset(ResetCode::Cancelled);
    let (mut far, told) = run(patience(60, 60), move |exchange| {
        vec![CrossMessage::AnswerData(exchange, vec![7; 3 << 20]), CrossMessage::Broke(exchange, broken)]
    });
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).unwrap();
    assert!(heard == vec![7; 3 << 20]);
    let told = told.recv_timeout(LONG).unwrap();
    assert!(matches!(told.end, Err(Broke::Stream(told)) if told == broken), "{:?}", told.end);
}

#[test]
fn each_direction_ends_behind_its_last_byte() {
    let (mut far, told) = run(patience(60, 60), |exchange| {
        vec![CrossMessage::AnswerData(exchange, b"yours".to_vec()), CrossMessage::AnswerEnd(exchange, vec![])]
    });
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"yours");
    far.write_all(b"mine").unwrap();
    drop(far);
    let told = told.recv_timeout(LONG).unwrap();
    assert!(told.end.is_ok() && told.has_ended, "{:?}", told.end);
    assert_eq!((told.bytes, told.sent.as_slice()), ([4, 5], &b"mine"[..]));
}

#[test]
fn a_stream_that_takes_nothing_leaves_what_is_said_with_the_peer() {
    // Nobody grants anything: the stream takes its first window and no more.
    let (mut far, told) = run(patience(2, 60), |_| Vec::new());
    far.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut written = 0;
    while let Ok(size) = far.write(&[7; 64 * 1024]) {
        written += size;
        assert!(written < 64 << 20, "it takes everything");
    }
    let told = told.recv_timeout(LONG).unwrap();
    assert_eq!(silent(&told), "nothing passed through the tunnel for 2 s");
    assert_eq!(told.sent, vec![7; limits::STREAM_WINDOW_INITIAL]);
}
