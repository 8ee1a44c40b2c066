//! Sockets on a real ring, against peers in plain threads.

use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use super::Socket;
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
