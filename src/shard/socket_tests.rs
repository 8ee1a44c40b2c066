//! Sockets on a real ring, against peers in plain threads.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use super::{Listener, Socket};
use crate::limits;
use crate::shard::{self, Place, Shard, Slots};

/// Runs `story` on a shard with a socket whose other end is given back besides.
fn with_socket<T, S, F>(story: S) -> (TcpStream, mpsc::Receiver<T>)
where
    T: Send + 'static,
    S: FnOnce(Rc<Shard>, Socket) -> F + Send + 'static,
    F: Future<Output = T> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    let (tell, told) = mpsc::channel();
    let place = Place { index: 0, cpu: shard::allowed_cpus()[0], slots: 400, owner: Slots::ByRing };
    shard::start(place, move |shard| {
        let socket = Socket::adopt(&shard.ring, near.into()).unwrap();
        let told = story(shard, socket);
        (|| 0, async move { tell.send(told.await).unwrap() })
    })
    .unwrap();
    (far, told)
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_dropped_socket_is_closed_although_its_peer_took_only_a_part_of_a_send() {
    let (far, told) = with_socket(|shard, socket| async move {
        socket.send(vec![0; 32 * 1024 * 1024]);
        shard.sleep(Duration::from_millis(300)).await;
        assert!(socket.is_sending(), "the peer reads nothing");
        drop(socket);
        shard.sleep(Duration::from_secs(1)).await;
        shard.ring.slots().0
    });
    assert_eq!(told.recv_timeout(LONG), Ok(0));
    drop(far);
}

#[test]
fn a_direct_descriptor_goes_on_as_an_ordinary_one_unless_bytes_came() {
    let (mut far, told) = with_socket(|shard, socket| async move {
        let arm = |context: &mut std::task::Context<'_>| {
            assert!(socket.poll_recv_shared(context).is_pending(), "nothing was sent yet");
            Poll::Ready(())
        };
        poll_fn(arm).await;
        // Before Linux 6.8 there is none.
        let fd = socket.portable().await?;
        poll_fn(arm).await;
        let mut near = TcpStream::from(fd);
        near.write_all(b"before").unwrap();
        shard.sleep(Duration::from_millis(500)).await;
        let second = socket.portable().await;
        drop(socket);
        near.write_all(b"after").unwrap();
        Some(second.is_some())
    });
    let mut heard = [0; 6];
    if far.read_exact(&mut heard).is_ok() {
        assert_eq!(&heard, b"before");
        far.write_all(b"unread").unwrap();
    }
    let Some(has_second) = told.recv_timeout(LONG).unwrap() else { return };
    assert!(!has_second, "what came would be lost");
    let mut heard = String::new();
    far.read_to_string(&mut heard).unwrap_or_default();
    assert!(heard.starts_with("after") || heard.is_empty(), "{heard}");
}

#[test]
fn a_flooding_peer_that_nobody_reads_leaves_the_shared_buffers_to_others() {
    const SIZE: usize = 16 * 1024 * 1024;
    let (mut far, told) = with_socket(|shard, socket| async move {
        poll_fn(|context| {
            assert!(socket.poll_recv_shared(context).is_pending(), "nothing was sent yet");
            Poll::Ready(())
        })
        .await;
        shard.sleep(Duration::from_secs(1)).await;
        let free = shard.ring.shared.borrow().free();
        let mut size = 0;
        let mut own = Vec::new();
        while size < SIZE {
            // What was set aside comes by the other way; `transport::Wire` too asks at every poll.
            let bytes = poll_fn(|context| {
                if socket.is_receiving_owned() {
                    let received = socket.poll_recv_owned(context, &mut own);
                    return received.map_ok(|_| std::mem::take(&mut own));
                }
                socket
                    .poll_recv_shared(context)
                    .map_ok(|bytes| bytes.map(|bytes| bytes.to_vec()).unwrap_or_default())
            })
            .await
            .unwrap();
            if bytes.is_empty() {
                break;
            }
            let expected = (size..).map(|place| (place / 1024) as u8);
            assert!(bytes.iter().copied().eq(expected.take(bytes.len())), "bytes out of order at {size}");
            size += bytes.len();
        }
        (free, size)
    });
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        let bytes: Vec<u8> = (0..SIZE).map(|place| (place / 1024) as u8).collect();
        let _ = far.write_all(&bytes);
    });
    let (free, size) = told.recv_timeout(LONG).unwrap();
    assert!(free > limits::SHARED_BUFFER_COUNT / 2, "only {free} shared buffers are left");
    assert_eq!(size, SIZE);
}

/// Pairs of connected sockets: the near ends, and the far ones.
fn pairs(count: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (0..count).map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0)).unzip()
}

async fn receive(socket: &Socket) -> Vec<u8> {
    let mut own = Vec::new();
    poll_fn(|context| {
        if socket.is_receiving_owned() {
            return socket.poll_recv_owned(context, &mut own).map_ok(|_| std::mem::take(&mut own));
        }
        socket.poll_recv_shared(context).map_ok(|bytes| bytes.map(|bytes| bytes.to_vec()).unwrap_or_default())
    })
    .await
    .unwrap()
}

/// How many of those that were sent something before had received it when the last one had; and, in the end,
/// how many times each had.
fn race(is_patient: bool) -> (usize, Vec<u8>) {
    const COUNT: usize = 300;
    let (near, mut far) = pairs(COUNT + 1);
    let (mut first, near) = with_socket(move |shard, go| async move {
        let near = near.into_iter().map(|one| Rc::new(Socket::adopt(&shard.ring, one.into()).unwrap()));
        let mut sockets: Vec<_> = near.collect();
        let urgent = sockets.pop().unwrap();
        let served = Rc::new(RefCell::new(vec![0u8; COUNT]));
        for (number, socket) in sockets.into_iter().enumerate() {
            socket.set_patient(is_patient);
            let served = served.clone();
            shard.spawn("waiting", async move {
                while !receive(&socket).await.is_empty() {
                    served.borrow_mut()[number] += 1;
                }
            });
        }
        shard.ring.note_urgent();
        poll_fn(|context| {
            assert!(urgent.poll_recv_shared(context).is_pending());
            Poll::Ready(())
        })
        .await;
        // So that all of them wait in the kernel.
        shard.sleep(Duration::from_millis(100)).await;
        go.send(vec![1]);
        receive(&go).await;
        thread::sleep(Duration::from_millis(300));
        shard.ring.note_urgent();
        receive(&urgent).await;
        let before = served.borrow().iter().filter(|times| **times > 0).count();
        shard.sleep(Duration::from_millis(500)).await;
        let times = served.borrow().clone();
        (before, times)
    });
    first.read_exact(&mut [0]).unwrap();
    first.write_all(&[1]).unwrap();
    thread::sleep(Duration::from_millis(50));
    // In the order in which they were connected: the last one is the urgent one.
    far.iter_mut().for_each(|peer| peer.write_all(&[1]).unwrap());
    near.recv_timeout(LONG).unwrap()
}

#[test]
fn what_is_urgent_passes_hundreds_that_may_wait_and_came_before() {
    let (before, times) = race(true);
    assert!(before < 10, "{before} of 300 went first");
    assert!(times.iter().all(|times| *times == 1), "each receives all, once: {times:?}");
    let (before, _) = race(false);
    assert!(before > 100, "the kernel's order is that in which things happened, not so: {before}");
}

/// How many of a hundred that wait go on in one turn.
fn go_on_in_one_turn(is_laborious: bool, is_urgent: bool) -> usize {
    let (near, mut far) = pairs(100);
    let (_keep, told) = with_socket(move |shard, _| async move {
        let open: Vec<_> =
            near.into_iter().map(|one| Socket::adopt(&shard.ring, one.into()).unwrap()).collect();
        for socket in &open {
            socket.set_patient(true);
            socket.set_laborious(is_laborious);
            poll_fn(|context| {
                assert!(socket.poll_recv_shared(context).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        // So that all of them wait in the kernel; from here to the end the shard takes no turn by itself.
        shard.sleep(Duration::from_millis(100)).await;
        far.iter_mut().for_each(|peer| peer.write_all(&[1]).unwrap());
        shard.ring.submit().unwrap();
        shard.ring.deliver();
        if is_urgent {
            shard.ring.note_urgent();
        }
        shard.ring.take_turns().taken
    });
    told.recv_timeout(LONG).unwrap()
}

#[test]
fn of_those_with_a_handshake_fewer_go_on_in_one_turn() {
    let steps = limits::PATIENT_PER_TURN / limits::PATIENT_HANDSHAKE;
    assert_eq!(go_on_in_one_turn(false, false), limits::PATIENT_PER_TURN);
    assert_eq!(go_on_in_one_turn(true, false), steps);
    assert_eq!((go_on_in_one_turn(false, true), go_on_in_one_turn(true, true)), (1, 1));
}

#[test]
fn a_patient_socket_receives_all_and_the_end_however_often_it_changes_its_mind() {
    const SIZE: usize = 300_000;
    let (mut far, told) = with_socket(|shard, socket| async move {
        let mut received = Vec::new();
        for turn in 0.. {
            socket.set_patient(turn % 3 != 0);
            if turn % 7 == 0 {
                shard.sleep(Duration::from_millis(1)).await;
            }
            let bytes = receive(&socket).await;
            if bytes.is_empty() {
                break;
            }
            received.extend_from_slice(&bytes);
        }
        drop(socket);
        shard.sleep(Duration::from_millis(300)).await;
        (received, shard.ring.slots().0, shard.ring.in_flight())
    });
    let sent: Vec<u8> = (0..SIZE).map(|place| (place / 100) as u8).collect();
    for piece in sent.chunks(10_000) {
        far.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    far.shutdown(std::net::Shutdown::Write).unwrap();
    let (received, open, in_flight) = told.recv_timeout(LONG).unwrap();
    assert!(received == sent, "{} of {SIZE} bytes, or others", received.len());
    assert_eq!((open, in_flight), (0, 1), "closed, and nothing in flight but the wait for other shards");
}

#[test]
fn patient_sockets_that_are_dropped_while_they_wait_are_closed() {
    let (near, mut far) = pairs(40);
    let (_keep, told) = with_socket(move |shard, _| async move {
        let open: Vec<_> =
            near.into_iter().map(|one| Socket::adopt(&shard.ring, one.into()).unwrap()).collect();
        for socket in &open {
            socket.set_patient(true);
            poll_fn(|context| {
                assert!(socket.poll_recv_shared(context).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        shard.sleep(Duration::from_millis(300)).await;
        drop(open);
        shard.sleep(Duration::from_millis(300)).await;
        (shard.ring.slots().0, shard.ring.in_flight(), shard.ring.has_patient())
    });
    // Half of them wait for bytes still, half for their task.
    thread::sleep(Duration::from_millis(100));
    far.iter_mut().step_by(2).for_each(|peer| peer.write_all(&[1]).unwrap());
    assert_eq!(told.recv_timeout(LONG), Ok((0, 1, false)));
}

#[test]
fn quick_sends_that_find_the_socket_full_arrive_whole_and_in_order() {
    const COUNT: usize = 1_500;
    let message = |number: usize| vec![(number % 251) as u8; 7_000 + number % 1_000];
    let (mut far, told) = with_socket(move |_, socket| async move {
        for number in 0..COUNT {
            assert!(message(number).len() <= limits::QUICK_SEND_SIZE_MAX);
            socket.send(message(number));
            poll_fn(|context| socket.poll_sent(context)).await.unwrap();
        }
    });
    // 10 MB: more than the socket takes while nobody reads.
    thread::sleep(Duration::from_millis(300));
    for number in 0..COUNT {
        let mut bytes = vec![0; message(number).len()];
        far.read_exact(&mut bytes).unwrap();
        assert!(bytes == message(number), "message {number} is not as it was sent");
    }
    told.recv_timeout(LONG).unwrap();
}

#[test]
fn a_send_that_ends_well_wakes_only_whoever_waits_for_that() {
    let (mut far, told) = with_socket(|shard, socket| async move {
        let mut polls = 0;
        let deadline = shard.deadline();
        deadline.set(shard.now(), Duration::from_secs(1));
        poll_fn(|context| {
            polls += 1;
            if polls == 1 {
                socket.send(vec![1; 100]);
            }
            assert!(socket.poll_recv_shared(context).is_pending(), "the peer is silent");
            if deadline.poll(context) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let unasked = (polls, socket.is_sending());
        polls = 0;
        poll_fn(|context| {
            polls += 1;
            socket.watch(context);
            if polls == 1 {
                socket.send(vec![2; 100]);
                socket.want_sent();
            }
            if socket.is_sending() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        (unasked, polls)
    });
    // Once at the start and once at the deadline; then once more when the send has ended.
    assert_eq!(told.recv_timeout(LONG), Ok(((2, false), 2)));
    let mut bytes = vec![0; 200];
    far.read_exact(&mut bytes).unwrap();
    assert!(bytes[..100].iter().all(|byte| *byte == 1) && bytes[100..].iter().all(|byte| *byte == 2));
}

#[test]
fn a_send_to_a_peer_that_is_gone_wakes_whoever_waits_for_anything() {
    let (far, told) = with_socket(|shard, socket| async move {
        shard.sleep(Duration::from_millis(500)).await;
        let mut polls = 0;
        poll_fn(|context| {
            polls += 1;
            socket.watch(context);
            if polls > 50 {
                return Poll::Ready(None);
            }
            if socket.is_sending() {
                return Poll::Pending;
            }
            match socket.poll_sent(context) {
                Poll::Ready(Err(error)) => Poll::Ready(Some(error.kind())),
                _ => {
                    socket.send(vec![1; 100]);
                    if polls < 3 {
                        // The first one still goes out; its answer is the reset.
                        socket.want_sent();
                    }
                    Poll::Pending
                }
            }
        })
        .await
    });
    let _ = socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO));
    drop(far);
    let kind = told.recv_timeout(LONG).unwrap();
    assert!(
        matches!(kind, Some(std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset)),
        "{kind:?}"
    );
}

#[test]
fn a_large_buffer_is_picked_only_when_bytes_come() {
    const SIZE: usize = 100_000;
    let (mut far, told) = with_socket(|shard, socket| async move {
        assert!(socket.is_at_rest() && shard.ring.can_pick());
        let mut received = Vec::new();
        while received.len() < SIZE {
            let bytes = poll_fn(|context| socket.poll_recv_picked(context)).await.unwrap().unwrap();
            assert!(bytes.len() > limits::RESEAL_HEADROOM, "something came");
            received.extend_from_slice(&bytes[limits::RESEAL_HEADROOM..]);
            shard.ring.pool.borrow_mut().give_back(bytes);
        }
        let end = poll_fn(|context| socket.poll_recv_picked(context)).await.unwrap();
        (received, end.is_none())
    });
    let bytes: Vec<u8> = (0..SIZE).map(|place| (place / 7) as u8).collect();
    thread::sleep(Duration::from_millis(100));
    far.write_all(&bytes).unwrap();
    drop(far);
    let (received, is_ended) = told.recv_timeout(LONG).unwrap();
    assert!(received == bytes, "every byte in its place");
    assert!(is_ended);
}

#[test]
fn what_was_picked_also_comes_to_who_receives_into_a_buffer_of_its_own() {
    let (mut far, told) = with_socket(|shard, socket| async move {
        assert!(shard.ring.can_pick());
        poll_fn(|context| {
            assert!(socket.poll_recv_picked(context).is_pending(), "nothing was sent yet");
            Poll::Ready(())
        })
        .await;
        shard.sleep(Duration::from_millis(300)).await;
        assert!(!socket.is_at_rest() && socket.is_receiving_picked());
        let mut own = b"before ".to_vec();
        poll_fn(|context| socket.poll_recv_owned(context, &mut own)).await.unwrap();
        assert!(socket.is_at_rest());
        own
    });
    far.write_all(b"behind").unwrap();
    assert_eq!(told.recv_timeout(LONG).unwrap(), b"before behind");
}

#[test]
fn more_sockets_than_there_are_buffers_to_pick_all_receive() {
    const COUNT: usize = 3 * limits::PICKED_BUFFER_COUNT as usize;
    let (_far, told) = with_socket(move |shard, _| async move {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(shard.ring.can_pick());
        let mut pairs = Vec::new();
        for _ in 0..COUNT {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (far, _) = listener.accept().unwrap();
            pairs.push((Socket::adopt(&shard.ring, near.into()).unwrap(), far));
        }
        for (socket, _) in &pairs {
            poll_fn(|context| {
                assert!(socket.poll_recv_picked(context).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        shard.sleep(Duration::from_millis(50)).await;
        // All at once, and one is dropped with what it received.
        for (number, (_, far)) in pairs.iter_mut().enumerate() {
            far.write_all(&[number as u8; 3_000]).unwrap();
        }
        let (gone, kept) = pairs.split_first_mut().unwrap();
        let _ = std::mem::replace(&mut gone.0, Socket::adopt(&shard.ring, listener.into()).unwrap());
        for (number, (socket, _)) in kept.iter().enumerate() {
            let bytes = poll_fn(|context| socket.poll_recv_picked(context)).await.unwrap().unwrap();
            assert_eq!(bytes[limits::RESEAL_HEADROOM..], [number as u8 + 1; 3_000]);
        }
    });
    told.recv_timeout(LONG).unwrap();
}

#[test]
fn accepts_taken_back_bring_who_came_before_and_leave_the_others_to_who_has_the_same_socket() {
    const ROUNDS: usize = 50;
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, own) = (other.local_addr().unwrap(), other.try_clone().unwrap());
    let (tell, told) = mpsc::channel();
    let place = Place { index: 0, cpu: shard::allowed_cpus()[0], slots: 400, owner: Slots::ByAccept };
    shard::start(place, move |shard| {
        let story = async move {
            let listener = Listener::new(&shard.ring, own.into(), true);
            let (mut accepted, mut clients) = (Vec::new(), Vec::new());
            for round in 0..ROUNDS {
                (0..4).for_each(|_| listener.arm());
                // Until the kernel has them, or not.
                for _ in 0..round % 16 {
                    futures_lite::future::yield_now().await;
                }
                // It comes before they are taken back, or meanwhile.
                clients.push(TcpStream::connect(address).unwrap());
                listener.disarm();
                poll_fn(|context| {
                    while let Poll::Ready(next) = listener.poll_accept(context) {
                        accepted.push(next.unwrap());
                    }
                    if listener.armed() == 0 { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            }
            // Nothing is armed any more.
            clients.push(TcpStream::connect(address).unwrap());
            tell.send((accepted.len(), clients)).unwrap();
        };
        (|| 0, story)
    })
    .unwrap();
    let (accepted, clients) = told.recv_timeout(LONG).unwrap();
    other.set_nonblocking(true).unwrap();
    let left = std::iter::from_fn(|| other.accept().ok()).count();
    println!("{accepted} were accepted, {left} left to the other");
    assert_eq!(accepted + left, clients.len());
    assert!(left >= 1);
}
