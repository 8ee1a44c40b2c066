//! Sockets on a real ring, against peers in plain threads.

use std::future::poll_fn;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use super::Socket;
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
    let place = Place { index: 0, cpu: shard::allowed_cpus()[0], slots: 64, owner: Slots::ByRing };
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
