use super::super::board::count;
use super::*;
use crate::notification::{Push, SHARE_ALL};

const SEEN_BEFORE: u64 = 4;

struct Asked {
    board: Arc<Board>,
    script: Box<dyn Script>,
    now: Instant,
    id: u64,
}

/// A client that signed in and has its request held.
fn held() -> Asked {
    let board = Arc::new(Board::default());
    let times = (Duration::from_secs(100), Duration::from_secs(2));
    let place = ("cmg.test".to_owned(), "/BGB/handler.ashx".to_owned());
    let waiting = Waiting::new(Arc::clone(&board), place, times, (1, SEEN_BEFORE));
    let now = Instant::now();
    let mut asked = Asked { script: waiting.script(7, now), board, now, id: 0 };
    let request = asked.ask();
    assert!(request.starts_with("GET /BGB/handler.ashx?RequestType=LogIn HTTP/1.1\r\n"), "{request}");
    assert!(asked.answer(200, Reply::SignedIn, 7, None, 1));
    let request = asked.ask();
    assert!(request.contains("RequestType=KeepAlive") && request.contains("client=7&seen=4"), "{request}");
    assert_eq!((count(&asked.board.sign_ins), count(&asked.board.held)), (1, 1));
    asked
}

impl Asked {
    fn ask(&mut self) -> String {
        self.id += 1;
        match self.script.next(self.id, self.now) {
            Next::Ask(request) => String::from_utf8(request.head).expect("text"),
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, status: u16, reply: Reply, client: u64, push: Option<u64>, id: u64) -> bool {
        let (id, shape) = (content::id_text(id), reply.row().shape);
        let mut body = vec![0; shape.size as usize];
        shape.pattern(&id).fill(0, &mut body);
        body[..shape.lead.len()].copy_from_slice(shape.lead);
        let tail = body.len() - shape.tail.len();
        body[tail..].copy_from_slice(shape.tail);
        self.answer_with(status, &body, client, push, &id)
    }

    fn answer_with(&mut self, status: u16, body: &[u8], client: u64, push: Option<u64>, id: &[u8]) -> bool {
        let push = push.map(|push| format!("X-Load-Push: {push}\r\n")).unwrap_or_default();
        let id = std::str::from_utf8(id).expect("text");
        let head = format!("HTTP/1.1 {status} X\r\nX-Id: {id}\r\nX-Load-Client: {client}\r\n{push}\r\n");
        let answer = Answer {
            status,
            size: body.len() as u64,
            elapsed: Duration::ZERO,
            head: head.as_bytes(),
            body,
            differs_at: None,
        };
        self.script.answered(&answer, self.now)
    }
}

#[test]
fn a_push_is_delivered_once_and_a_second_time_is_counted_apart() {
    let mut asked = held();
    asked.board.order(Push { number: 5, share: SHARE_ALL }, 1, asked.now);
    assert!(asked.answer(200, Reply::Push, 7, Some(5), 2));
    assert_eq!((asked.board.is_delivered(), count(&asked.board.held)), (true, 0));
    assert!(asked.ask().contains("seen=5"));
    assert!(!asked.answer(200, Reply::Push, 7, Some(5), 3), "with the right id too");
    asked.ask();
    assert!(!asked.answer(200, Reply::Push, 7, Some(5), 2), "the first answer again");
    assert_eq!((count(&asked.board.duplicated), count(&asked.board.misdelivered)), (2, 0));
    assert_eq!(asked.board.last().expect("ordered").times.len(), 1);
}

#[test]
fn an_answer_for_somebody_else_is_no_delivery() {
    for (client, push, id) in [(8, Some(5), 2), (7, Some(5), 1), (8, None, 2), (7, None, 1)] {
        let mut asked = held();
        asked.board.order(Push { number: 5, share: SHARE_ALL }, 1, asked.now);
        let reply = if push.is_some() { Reply::Push } else { Reply::Nothing };
        assert!(!asked.answer(200, reply, client, push, id), "{client} {push:?} {id}");
        assert_eq!((count(&asked.board.misdelivered), asked.board.is_delivered()), (1, false));
    }
}

#[test]
fn what_is_not_the_answer_byte_for_byte_is_malformed() {
    let shape = Reply::Push.row().shape;
    let id = content::id_text(2);
    let mut body = vec![0; shape.size as usize];
    shape.pattern(&id).fill(0, &mut body);
    for body in [&body[..], &body[1..], b""] {
        let mut asked = held();
        asked.board.order(Push { number: 5, share: SHARE_ALL }, 1, asked.now);
        assert!(!asked.answer_with(200, body, 7, Some(5), &id));
        assert_eq!((count(&asked.board.malformed), asked.board.is_delivered()), (1, false));
    }
}

#[test]
fn a_held_request_ends_with_nothing_and_is_asked_again() {
    let mut asked = held();
    assert!(asked.answer(200, Reply::Nothing, 7, None, 2));
    assert!(asked.ask().contains("seen=4"));
    assert_eq!((count(&asked.board.keep_alives), count(&asked.board.held)), (1, 1));
}

#[test]
fn holds_are_between_three_quarters_and_all_of_their_time() {
    let mut asked = held();
    for _ in 0..50 {
        assert!(asked.answer(200, Reply::Nothing, 7, None, asked.id));
        let request = asked.ask();
        let millis = request.split("delay_ms=").nth(1).and_then(|rest| rest.lines().next());
        let millis: u64 = millis.and_then(|text| text.parse().ok()).expect("a hold");
        assert!((75_000..=100_000).contains(&millis), "{millis}");
    }
}

#[test]
fn who_lost_the_connection_comes_back_within_the_spread_and_signs_in_again() {
    let mut asked = held();
    asked.script.lost("the connection ended before the answer", asked.now);
    assert_eq!((count(&asked.board.held), count(&asked.board.lost_connections)), (0, 1));
    let Next::Away(at) = asked.script.next(9, asked.now) else { panic!("it comes back at once") };
    assert_eq!(count(&asked.board.put_out), 1);
    assert!(at > asked.now && at <= asked.now + Duration::from_secs(2));
    asked.now = at;
    assert!(asked.ask().contains("RequestType=LogIn"));
    assert_eq!(count(&asked.board.malformed), 0);
    asked.script.lost(NO_ANSWER, asked.now);
    assert_eq!(count(&asked.board.put_out), 1, "nothing was held");
    assert_eq!(count(&asked.board.malformed), 1);
}

#[test]
fn who_is_turned_away_waits_before_the_next_try() {
    let mut asked = held();
    assert!(!asked.answer(503, Reply::Nothing, 7, None, 2));
    assert_eq!((count(&asked.board.refused), count(&asked.board.held)), (1, 0));
    assert!(matches!(asked.script.next(9, asked.now), Next::At(_)), "connected, for another try");
    assert_eq!(count(&asked.board.put_out), 1);
}
