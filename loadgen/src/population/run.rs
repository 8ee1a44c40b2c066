//! One client's way through one feature: which step is next, and whether its answer was right.

use super::catalogue::Reply;
use super::features::{self, FEATURES, Feature};
use super::request::{self, Client, Site};
use super::step::{Packet, Payload, Proof, Step};
use crate::clients::work::{Answer, Request};
use crate::content;
use crate::tokens::TOKEN_FIELD;

/// What a step was to find, and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What a right answer is.
    pub expected: String,
    /// What came.
    pub found: String,
}

/// A client in the middle of a feature.
#[derive(Clone, Debug)]
pub struct Run {
    feature: usize,
    /// Step asked, or to be asked next.
    at: usize,
    /// The step behind the last.
    end: usize,
    client: Client,
    id: u64,
    receipt: String,
    /// Tokens are signed: a service that gives one must.
    is_signed: bool,
}

/// What comes next.
#[derive(Clone, Debug)]
pub enum Next {
    /// This request.
    Ask(Box<Request>),
    /// The step with this number cannot be asked.
    Cannot(u16, Wrong),
    /// Nothing: it is over.
    Done,
}

impl Run {
    /// The steps `from..end` of a feature.
    pub fn new(feature: usize, from: usize, end: usize, client: Client) -> Self {
        let end = end.min(FEATURES[feature].steps.len());
        Self { feature, at: from.min(end), end, client, id: 0, receipt: String::new(), is_signed: false }
    }

    fn feature(&self) -> &'static Feature {
        &FEATURES[self.feature]
    }

    fn step(&self) -> Option<&'static Step> {
        self.feature().steps.get(self.at).filter(|_| self.at < self.end)
    }

    /// Number of the step at hand among all steps.
    pub fn name(&self) -> u16 {
        (features::first_step(self.feature) + self.at) as u16
    }

    /// The next request, with this id.
    pub fn next(&mut self, site: &Site, id: u64, utc: u64) -> Next {
        let Some(step) = self.step() else { return Next::Done };
        let name = self.name();
        let needs_session = matches!(step.payload, Payload::Packet(Packet::Fragment(..) | Packet::Close));
        if needs_session && self.client.session.is_none() {
            self.at += 1;
            let found = "not asked: no BITS-Session-Id from the step before".to_owned();
            return Next::Cannot(name, Wrong { expected: expected(step), found });
        }
        self.client.utc = utc;
        self.is_signed = site.signer.is_some();
        // One token for all that is asked until there is another, as whoever gave it meant it.
        if step.shows_token() && self.client.token.is_none() {
            let device = request::client_id(self.client.number);
            self.client.token = site.signer.as_ref().map(|signer| match step.proof {
                Proof::Registration => signer.of_site(&device),
                Proof::None | Proof::Token | Proof::Signed | Proof::Policy => signer.of_directory(&device),
            });
        }
        let made = request::make(site, &self.client, self.feature(), self.at, name, id);
        (self.id, self.receipt) = (id, made.receipt);
        Next::Ask(Box::new(made.request))
    }

    /// The step at hand was answered. Goes on to the next.
    pub fn answered(&mut self, answer: &Answer<'_>) -> Result<(), Wrong> {
        let Some(step) = self.step() else { return Ok(()) };
        let verdict = self.judge(step, answer);
        if verdict.is_ok() {
            self.learn(step, answer);
        }
        self.at += 1;
        verdict.map_err(|found| Wrong { expected: expected(step), found })
    }

    /// The step at hand will not be answered. Goes on to the next.
    pub fn lost(&mut self, why: &str) -> Wrong {
        let expected = self.step().map(expected).unwrap_or_default();
        self.at += 1;
        Wrong { expected, found: why.to_owned() }
    }

    /// Remembers what later steps need.
    fn learn(&mut self, step: &Step, answer: &Answer<'_>) {
        let text = |name| answer.field(name).map(|value| String::from_utf8_lossy(value).into_owned());
        if step.payload == Payload::Packet(Packet::Create) {
            self.client.session = text("BITS-Session-Id");
        }
        if step.payload == Payload::Packet(Packet::Close) {
            self.client.session = None;
        }
        if let Some(token) = text(TOKEN_FIELD) {
            self.client.token = Some(token);
        }
        if let (Some(file), Some(tag)) = (step.reply.row().shape.file, text("ETag")) {
            self.client.tag = Some((file, tag));
        }
    }

    /// What is wrong with an answer.
    fn judge(&self, step: &Step, answer: &Answer<'_>) -> Result<(), String> {
        if answer.status != step.status() {
            return Err(status_text(answer));
        }
        if step.reply == Reply::Gateway {
            return if !answer.body.is_empty() { Ok(()) } else { Err(format!("{}, empty", answer.status)) };
        }
        let field = |name: &str| answer.field(name).map(String::from_utf8_lossy);
        let same = |name: &str, wanted: &str| match field(name) {
            Some(found) if found == wanted => Ok(()),
            Some(found) => Err(format!("{}, {name}: {found} instead of {wanted}", answer.status)),
            None => Err(format!("{}, no {name}", answer.status)),
        };
        let id = content::id_text(self.id);
        same("X-Id", std::str::from_utf8(&id).unwrap_or_default())?;
        same("X-Load-Account", &self.receipt)?;
        if step.size().is_some_and(|size| size != answer.size) {
            return Err(format!("{}, {} bytes", answer.status, answer.size));
        }
        if let Some(place) = answer.differs_at {
            return Err(format!("{}, other content from byte {place} on", answer.status));
        }
        let gives_token = step.reply == Reply::Token && step.shows_token() && self.is_signed;
        if gives_token && field(TOKEN_FIELD).is_none() {
            return Err(format!("{}, no {TOKEN_FIELD}", answer.status));
        }
        let file = step.reply.row().shape;
        if let Some((first, last)) = step.range {
            same("Content-Range", &format!("bytes {first}-{last}/{}", file.size))?;
        }
        match (&self.client.tag, field("ETag")) {
            (_, None) if file.file.is_some() => return Err(format!("{}, no ETag", answer.status)),
            (Some((name, tag)), Some(_)) if file.file == Some(*name) => same("ETag", tag)?,
            _ => {}
        }
        let Payload::Packet(packet) = step.payload else { return Ok(()) };
        same("BITS-Packet-Type", "Ack")?;
        match packet {
            Packet::Create if field("BITS-Session-Id").is_none_or(|id| id.is_empty()) => {
                Err(format!("{}, no BITS-Session-Id", answer.status))
            }
            Packet::Fragment(_, last, _) => same("BITS-Received-Content-Range", &(last + 1).to_string()),
            Packet::Create | Packet::Ping | Packet::Close => Ok(()),
        }
    }
}

fn expected(step: &Step) -> String {
    match step.size() {
        Some(0) => format!("{}, empty", step.status()),
        Some(size) if step.method == "HEAD" => format!("{}, length {size}", step.status()),
        Some(size) => format!("{}, {size} bytes", step.status()),
        None => format!("{}, not empty", step.status()),
    }
}

/// Status and reason, and what a gateway says of it besides.
fn status_text(answer: &Answer<'_>) -> String {
    let line = answer.head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let reason = line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default();
    format!("{} {}", answer.status, String::from_utf8_lossy(reason)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn site() -> Site {
        Site { host: "h".into(), management_point: 1, update_point: 2, signer: None }
    }

    fn begun(feature: &str) -> Run {
        let mut run = Run::new(features::find(feature).expect("known"), 0, usize::MAX, Client::default());
        assert!(matches!(run.next(&site(), 0xab, 0), Next::Ask(_)));
        run
    }

    /// A right answer to the step at hand, but for what is changed.
    fn hear(
        run: &mut Run,
        status: u16,
        size: u64,
        differs_at: Option<u64>,
        fields: &str,
    ) -> Result<(), Wrong> {
        let id = content::id_text(run.id);
        let head = format!(
            "HTTP/1.1 {status} Reason_Text\r\nX-Id: {}\r\nX-Load-Account: {}\r\n{fields}\r\n",
            std::str::from_utf8(&id).expect("digits"),
            run.receipt
        );
        let answer =
            Answer { status, size, elapsed: Duration::ZERO, head: head.as_bytes(), body: b"", differs_at };
        run.answered(&answer)
    }

    #[test]
    fn a_right_answer_leads_to_the_next_step_and_to_the_end() {
        let mut run = begun("location");
        let mut steps = 0;
        loop {
            let step = run.step().expect("a step at hand");
            let size = step.size().expect("known");
            assert_eq!(hear(&mut run, step.status(), size, None, ""), Ok(()), "{}", step.name);
            steps += 1;
            match run.next(&site(), steps, 0) {
                Next::Ask(_) => {}
                Next::Done => break,
                Next::Cannot(_, wrong) => panic!("{wrong:?}"),
            }
        }
        assert_eq!(steps, 6);
    }

    #[test]
    fn whatever_differs_is_told_with_what_was_expected() {
        let size = Reply::PointList.row().shape.size;
        for (status, length, differs_at, found) in [
            (401, 10, None, "401 Reason_Text"),
            (200, size - 1, None, "200, 1479 bytes"),
            (200, size, Some(700), "200, other content from byte 700 on"),
        ] {
            let wrong = hear(&mut begun("location"), status, length, differs_at, "").expect_err(found);
            assert_eq!(wrong, Wrong { expected: "200, 1480 bytes".into(), found: found.into() });
        }
    }

    #[test]
    fn an_answer_to_another_request_or_for_another_body_is_wrong() {
        for (from, to, found) in [
            (
                "00000000000000ab",
                "00000000000000ac",
                "200, X-Id: 00000000000000ac instead of 00000000000000ab",
            ),
            ("len=0", "len=1", "200, X-Load-Account: len=1"),
            ("X-Load-Account", "X-Other", "200, no X-Load-Account"),
        ] {
            let mut run = begun("location");
            let head = format!(
                "HTTP/1.1 200 OK\r\nX-Id: 00000000000000ab\r\nX-Load-Account: {}\r\n\r\n",
                run.receipt
            );
            let head = head.replacen(from, to, 1);
            let answer = Answer {
                status: 200,
                size: 1_480,
                elapsed: Duration::ZERO,
                head: head.as_bytes(),
                body: b"",
                differs_at: None,
            };
            let wrong = run.answered(&answer).expect_err(found);
            assert!(wrong.found.starts_with(found), "{wrong:?}");
        }
    }

    #[test]
    fn an_upload_needs_the_session_it_was_given() {
        let mut run = begun("inventory");
        assert_eq!(hear(&mut run, 200, 0, None, "BITS-Packet-Type: Ack\r\n"), Ok(()));
        assert!(matches!(run.next(&site(), 1, 0), Next::Ask(_)));
        let wrong = hear(&mut run, 200, 0, None, "BITS-Packet-Type: Ack\r\n").expect_err("no session");
        assert_eq!(wrong.found, "200, no BITS-Session-Id");
        for _ in 0..5 {
            assert!(matches!(run.next(&site(), 2, 0), Next::Cannot(..)), "fragments and close");
        }
        assert!(matches!(run.next(&site(), 3, 0), Next::Ask(_)), "the messages behind it");
    }

    #[test]
    fn fragments_are_counted_by_what_was_received() {
        let mut run = begun("inventory");
        assert_eq!(hear(&mut run, 200, 0, None, "BITS-Packet-Type: Ack\r\n"), Ok(()));
        run.next(&site(), 1, 0);
        let fields = "BITS-Packet-Type: Ack\r\nBITS-Session-Id: {1}\r\n";
        assert_eq!(hear(&mut run, 200, 0, None, fields), Ok(()));
        run.next(&site(), 2, 0);
        let wrong =
            hear(&mut run, 200, 0, None, "BITS-Packet-Type: Ack\r\nBITS-Received-Content-Range: 7\r\n");
        assert_eq!(wrong.expect_err("less").found, "200, BITS-Received-Content-Range: 7 instead of 81920");
    }

    #[test]
    fn parts_of_a_file_are_of_the_file_that_head_told_of() {
        let mut run = begun("client-upgrade");
        assert_eq!(hear(&mut run, 200, 2_600_000, None, "ETag: \"1\"\r\n"), Ok(()));
        run.next(&site(), 1, 0);
        let range = "Content-Range: bytes 0-1048575/2600000\r\n";
        let mut other = run.clone();
        let wrong = hear(&mut other, 206, 1 << 20, None, &format!("{range}ETag: \"2\"\r\n"));
        assert_eq!(wrong.expect_err("another file").found, "206, ETag: \"2\" instead of \"1\"");
        let wrong = hear(&mut run.clone(), 200, 2_600_000, None, "ETag: \"1\"\r\n");
        assert_eq!(wrong.expect_err("all of it").expected, "206, 1048576 bytes");
        assert_eq!(hear(&mut run, 206, 1 << 20, None, &format!("{range}ETag: \"1\"\r\n")), Ok(()));
    }
}
