//! A guest on a link of a real shard that nobody drives.

use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::channel::{RequestStart, RequestWriter, Side};
use crate::shard::{self, Place, Slots};

fn request() -> Vec<u8> {
    let start = RequestStart {
        request_id: [1; 16],
        identity: 0,
        window: 1024,
        has_body: true,
        length: None,
        is_tunnel: false,
        expect_continue: false,
        method: b"CCM_POST",
        target: b"/CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request",
        host: b"gateway.example",
    };
    let mut out = Vec::new();
    RequestWriter::new(&mut out, &start).unwrap().finish();
    out
}

#[test]
fn a_guest_whose_body_has_ended_may_still_hear_of_room() {
    const EXCHANGE: u64 = 7;
    let (tell, told) = mpsc::channel();
    let place = Place { index: 0, cpu: shard::allowed_cpus()[0], slots: 64, owner: Slots::ByRing };
    let ended = shard::start(place, move |shard| {
        let said: Rc<RefCell<Vec<(usize, CrossMessage)>>> = Rc::default();
        let says = said.clone();
        let send: Send = Box::new(move |to, _, message| says.borrow_mut().push((to, message)));
        let crossing = Crossing::new(0, &shard.ring, send);
        let link = Link::new(&shard, Side::Gateway, Some(crossing.clone()));
        let main = async move {
            assert!(crossing.admit(1, EXCHANGE, &link, &request()));
            let body = vec![b'b'; STREAM_WINDOW_INITIAL];
            crossing.handle(1, CrossMessage::Data(EXCHANGE, body));
            crossing.handle(1, CrossMessage::End(EXCHANGE, Vec::new()));
            let granted = match said.borrow_mut().drain(..).next() {
                Some((1, CrossMessage::Granted(EXCHANGE, size))) => size,
                _ => 0,
            };
            // It had asked for room before its last bytes found some; now its turn comes.
            crossing.room(1, EXCHANGE);
            let (_, room) = said.borrow_mut().pop().unwrap();
            crossing.handle(0, room);
            tell.send((granted, said.borrow().len(), crossing.counts().1)).unwrap();
        };
        (|| 0, main)
    })
    .unwrap();
    let after_end = told.recv_timeout(Duration::from_secs(20));
    assert_eq!(after_end, Ok((STREAM_WINDOW_INITIAL, 0, 1)), "nothing more is granted, and the guest stays");
    assert!(ended.join().is_ok_and(|end| end.is_ok()));
}
