//! The fuzz function on seeded bytes: noise, and honest messages with a few octets changed.

use crate::http::fuzz;

const SEEDS: [&[u8]; 8] = [
    b"CCM_POST /CCM_Proxy_MutualAuth/8/CCM_System/request HTTP/1.1\r\nHost: gw.example\r\n\
      Content-Length: 5\r\nConnection: keep-alive\r\nX_Forwarded_For: 1\r\n\r\nhello",
    b"POST http://h:80/a?b HTTP/1.1\r\nHost: h:80\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: Keep-Alive, a\r\nA: b\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nETag: \"x\"\r\nConnection: b\r\nB: c\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200\r\n\r\n",
    b"HTTP/1.0 404 Nicht gefunden \xE9\r\nServer: s\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n",
    b"5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
    b"1\r\nx\r\n000\r\nDigest: a\r\nHost: b\r\nB-C:\r\n\r\nnext",
];
const TELLING: &[u8] = b"\r\n\t :;,0159aAfF-_.\"{}#\0\x7f\x80\xff=/";

/// xorshift64*: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    fn octet(&mut self) -> u8 {
        match self.below(4) {
            0 => self.below(256) as u8,
            _ => TELLING[self.below(TELLING.len())],
        }
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len().max(1)).min(bytes.len());
        match self.below(5) {
            0 => bytes.insert(at, self.octet()),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 if at < bytes.len() => bytes[at] = self.octet(),
            3 => {
                let from = at + self.below((bytes.len() - at).max(1));
                let copied = bytes[at..from].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copied);
            }
            _ => {
                let other = SEEDS[self.below(SEEDS.len())];
                let from = self.below(other.len());
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
}

#[test]
fn whatever_is_taken_reads_the_same_at_the_next_hop() {
    for seed in SEEDS {
        fuzz(seed);
    }
    for seed in 1..=20_000u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut bytes = SEEDS[random.below(SEEDS.len())].to_vec();
        for _ in 0..random.below(4) {
            random.mutate(&mut bytes);
        }
        let result = std::panic::catch_unwind(|| fuzz(&bytes));
        assert!(result.is_ok(), "seed {seed}: {}", bytes.escape_ascii());
    }
}

#[test]
fn noise_is_never_a_reason_to_panic() {
    for seed in 1..=2_000u64 {
        let mut random = Random(seed);
        let size = random.below(400);
        let bytes: Vec<u8> = (0..size).map(|_| random.octet()).collect();
        fuzz(&bytes);
    }
}
