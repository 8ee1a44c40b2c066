//! Every bound of cmg, with its reason, in one place.
//!
//! Bounds that depend on one another are related by compile-time asserts, so that changing one meets
//! the compiler. Durations are `Duration`; sizes are bytes; counts say what they count.

use std::time::Duration;

// ── HTTP heads ──────────────────────────────────────────────────────────────────────────────────

/// Bytes in one request or response head, request line and final blank line included. IIS refuses
/// request heads over 16,384 bytes, so nothing behind a connection point could take more; the rest
/// of that size is what the OPEN frame adds around the head.
pub const HEAD_SIZE_MAX: usize = 15_872;
/// Fields in one head. Real clients send about 15; a browser with proxies in between about 30.
pub const FIELD_COUNT_MAX: usize = 100;
/// Bytes in one field name. The longest registered name has 35.
pub const FIELD_NAME_SIZE_MAX: usize = 128;
/// Bytes in a method. The longest in use here, `BITS_POST`, has 9.
pub const METHOD_SIZE_MAX: usize = 32;
/// Bytes in a request target; the default of http.sys (`UrlSegmentMaxLength` and friends) is far below.
pub const TARGET_SIZE_MAX: usize = 8_192;
/// Bytes of all trailer fields of one body together.
pub const TRAILERS_SIZE_MAX: usize = 4_096;
/// Bytes of one chunk-size line with its extensions (extensions are read over, never forwarded).
pub const CHUNK_LINE_SIZE_MAX: usize = 256;
/// Interim (1xx) answers passed on before the final one; a misbehaving origin could send for ever.
pub const INTERIM_COUNT_MAX: usize = 8;
/// Heads of one answer that are read at all: an origin that sends interim ones without end would keep
/// its shard busy until the answer is overdue.
pub const INTERIM_COUNT_READ_MAX: usize = 64;
const _: () = assert!(INTERIM_COUNT_READ_MAX < u8::MAX as usize);

// ── Channel ─────────────────────────────────────────────────────────────────────────────────────

/// Bytes of a frame header: type, flags, payload length (u16), stream (u32).
pub const FRAME_HEADER_SIZE: usize = 8;
/// What one frame may carry, so that a frame always fits one TLS record (RFC 8446 5.1: 2^14).
pub const FRAME_PAYLOAD_SIZE_MAX: usize = 16 * 1024 - FRAME_HEADER_SIZE;
/// Bytes that an OPEN or HEAD payload adds at most to the head it carries (fixed part).
pub const MESSAGE_FIXED_SIZE_MAX: usize = 64;
/// Room for the field or two a hop sets itself (request id, status copy).
pub const MESSAGE_ADDED_SIZE_MAX: usize = 256;
/// A field costs 4 bytes of lengths on the channel and at least 3 (`:`, CR, LF) in text.
const _: () = assert!(
    HEAD_SIZE_MAX + FIELD_COUNT_MAX + MESSAGE_FIXED_SIZE_MAX + MESSAGE_ADDED_SIZE_MAX
        <= FRAME_PAYLOAD_SIZE_MAX
);
const _: () = assert!(TRAILERS_SIZE_MAX + FIELD_COUNT_MAX <= FRAME_PAYLOAD_SIZE_MAX);

/// Credit a stream starts with in each direction.
pub const STREAM_WINDOW_INITIAL: usize = 64 * 1024;
/// What a stream's window may grow to: 1 MiB carries 80 Mbit/s over 100 ms.
pub const STREAM_WINDOW_MAX: usize = 1024 * 1024;
/// What a stream's window begins with when its body's length is announced and greater: four whole
/// sends under way, so that a body of a megabyte does not end before its window has grown, and is granted
/// three times and not seven. Out of the budget below.
pub const STREAM_WINDOW_ANNOUNCED: usize = 512 * 1024;
/// What a stream's window should last for, at least, while it may grow: one that is consumed faster makes
/// every hop wake up for each of its halves.
pub const WINDOW_WORTH_LEAST: Duration = Duration::from_millis(4);
/// Bytes in flight on one channel that the receiver has not yet moved into streams.
pub const CHANNEL_WINDOW: usize = 4 * 1024 * 1024;
/// What all windows of one channel together may have grown by beyond their initial size.
pub const WINDOW_GROWTH_BUDGET: usize = 32 * 1024 * 1024;
/// Plain bytes a channel holds ready to send before bulk senders must wait. Small, because a small
/// answer stands in line behind them: 128 KiB are about 0.1 ms at 10 Gbit/s.
pub const CHANNEL_OUT_SIZE_MAX: usize = 128 * 1024;
/// Streams open at once on one channel. One held request for every client of a full shard.
pub const STREAM_COUNT_MAX: usize = 32_768;
/// Identities that one channel may hold: one for each client connection of a full shard.
pub const IDENTITY_COUNT_MAX: usize = 32_768;
/// Bytes of one IDENTITY: a certificate chain as far as it is forwarded, or claims.
pub const IDENTITY_SIZE_MAX: usize = 8_192;
/// Bytes of the internal authority's revocation list: some 6,000 entries, of connection points and instances alone.
pub const INTERNAL_LIST_SIZE_MAX: usize = 256 * 1024;
const _: () = assert!(INTERNAL_LIST_SIZE_MAX <= SETTINGS_SIZE_MAX && INTERNAL_LIST_SIZE_MAX <= CRL_SIZE_MAX);
/// Bytes of what asks for the next internal certificate: a chain, a request and a signature, of RSA 4096 at most.
pub const RENEWAL_SIZE_MAX: usize = 12 * 1024;
/// Bytes of the chain that comes of it.
pub const RENEWED_SIZE_MAX: usize = 12 * 1024;
const _: () = assert!(RENEWAL_SIZE_MAX < FRAME_PAYLOAD_SIZE_MAX && RENEWED_SIZE_MAX < FRAME_PAYLOAD_SIZE_MAX);
/// Certificates of a chain in either, leaf and authorities.
pub const RENEWAL_CHAIN_MAX: usize = 4;
/// DNS names of an internal certificate. Ours have one.
pub const RENEWAL_NAMES_MAX: usize = 16;
/// A request for a certificate is judged so long after it was made, and so long before, for clocks differ: who gets
/// hold of one later can have nothing made of it.
pub const RENEWAL_WITHIN: Duration = Duration::from_secs(300);
/// Bytes of one publication (settings of a site with its trust anchors).
pub const SETTINGS_SIZE_MAX: usize = 1024 * 1024;
/// Silence on a channel after which a connector pings.
pub const CONNECTOR_PING_AFTER: Duration = Duration::from_secs(4);
/// Silence after which a gateway does: later by more than a round trip, so that on a channel at rest one of them asks,
/// and its pings and their answers tell both.
pub const GATEWAY_PING_AFTER: Duration = Duration::from_secs(5);
/// A gateway that opened a stream and hears nothing at all on its channel for so long pings it: a request alone on a
/// quiet channel, whose origin takes its time, costs one more frame.
pub const PROBE_AFTER: Duration = Duration::from_secs(1);
/// A ping without any sign of life behind it for so long, and the channel stalls: others are asked while it does. Far
/// beyond any round trip, and a short delay for who waits.
pub const STALLED_AFTER: Duration = Duration::from_secs(2);
const _: () = assert!(PROBE_AFTER.as_millis() + STALLED_AFTER.as_millis() < CHANNEL_LOST_AFTER.as_millis());
/// Silence after which a channel is lost: three pings unanswered.
pub const CHANNEL_LOST_AFTER: Duration = Duration::from_secs(15);
/// A channel's TLS handshake and hello together.
pub const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Channels that may stand between accept and hello at once, so that strangers cost little; on each shard as many of
/// those that come in where clients do.
pub const HELLO_COUNT_MAX: usize = 64;
/// Reconnecting to an instance: first wait, and the longest; each is jittered by half.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(250);
/// See [`RECONNECT_FIRST`]. The original checks its links once a minute; we stay below.
pub const RECONNECT_LONGEST: Duration = Duration::from_secs(15);
/// A way to an instance that has not led there within so long has the next one tried beside it: TCP and TLS are three
/// round trips, a proxy two more.
pub const WAY_HEAD_START: Duration = Duration::from_secs(1);
/// Ways by HTTPS to one instance that settings may name: its own port, that of all instances, and those of another
/// address.
pub const HTTPS_WAYS_MAX: usize = 4;
/// Within so long of the moment when nothing comes any more by the best way a channel stands by the next one.
pub const FALL_BACK_WITHIN: Duration = Duration::from_secs(10);
/// Noticed by the last ping that has no answer; two ways may be dropped before one leads there.
const _: () = assert!(
    CONNECTOR_PING_AFTER.as_millis()
        + STALLED_AFTER.as_millis()
        + SILENCE_FIRST.as_millis() * 3 / 2
        + 2 * WAY_HEAD_START.as_millis()
        < FALL_BACK_WITHIN.as_millis()
);
/// Where what the gateway sends still comes, while requests run: it has the channel stall first, and opens nothing more.
const _: () = assert!(
    2 * (PROBE_AFTER.as_millis() + STALLED_AFTER.as_millis())
        + SILENCE_FIRST.as_millis() * 3 / 2
        + 2 * WAY_HEAD_START.as_millis()
        < FALL_BACK_WITHIN.as_millis()
);
/// What passed is told for windows of so long, as the original's connection points do.
pub const TRAFFIC_WINDOW: Duration = Duration::from_secs(5 * 60);
/// Of those so many are kept: a day.
pub const TRAFFIC_WINDOW_COUNT_MAX: usize = 288;
/// Endpoints in all of them together, beyond which the oldest windows go: 347 in use at all times have their day, and
/// at 56 bytes each that is 6 MB.
pub const TRAFFIC_ENDPOINTS_KEPT_MAX: usize = 100_000;
const _: () = assert!(SERIES_COUNT_MAX < TRAFFIC_ENDPOINTS_KEPT_MAX);
/// A channel that stands by a lesser way: the better ones are tried again after so long, then after twice as long
/// each time; jittered by half.
pub const BETTER_WAY_FIRST: Duration = Duration::from_secs(10);
/// See [`BETTER_WAY_FIRST`]. As often as the original checks its links.
pub const BETTER_WAY_LONGEST: Duration = Duration::from_secs(60);
/// Channels of one connector shard that have another in their place and wait for their last exchanges: with so many
/// no better way is tried. Tunnels may keep one for days.
pub const LEAVING_COUNT_MAX: usize = 64;
/// Channels of one index that another process's has succeeded and that have not ended: more upgrades of one gateway
/// within its grace time get a channel when the one before ends.
pub const SUCCEEDED_COUNT_MAX: usize = 4;
/// Dials of a port that instances share, until the one that is meant answers, for each of them: whichever of them
/// answers each time, the one that is meant is missed so often once in fifty or more attempts.
pub const MEET_DIALS_OF_INSTANCE: usize = 4;
/// See [`MEET_DIALS_OF_INSTANCE`]; for 16 and more.
pub const MEET_DIALS_MAX: usize = 64;
/// Between them.
pub const MEET_DIALS_PAUSE: Duration = Duration::from_millis(20);
/// A channel beside one whose instance makes way: before the first attempt, so that those of all connection points do
/// not come in one instant. Jittered by half, as all waits; then twice as long each time.
pub const BESIDE_FIRST: Duration = Duration::from_millis(100);
/// A channel on which nothing comes any more: before another is made, if nothing has come still. Then twice as long
/// each time.
pub const SILENCE_FIRST: Duration = Duration::from_millis(500);
/// Instances whose ports follow from their number: TCP-TLS takes 10140 to 10155, HTTPS 10124 to 10139.
pub const NUMBERED_INSTANCES: u16 = 16;
/// Where channels of the first instance come in by TCP-TLS.
pub const CHANNEL_PORT: u16 = 10_140;
/// Where they come in by HTTPS, when there are several instances.
pub const CHANNEL_HTTPS_PORT: u16 = 10_124;
const _: () = assert!(CHANNEL_HTTPS_PORT + NUMBERED_INSTANCES == CHANNEL_PORT);
/// Where HTTPS comes in: channels of a gateway with one instance, and what a proxy lets through to.
pub const HTTPS_PORT: u16 = 443;
/// Bytes of a user's name and of a password that an HTTP proxy asks for.
pub const PROXY_WORD_SIZE_MAX: usize = 1_024;

const _: () = assert!(STREAM_WINDOW_INITIAL >= 4 * FRAME_PAYLOAD_SIZE_MAX - 64);
const _: () = assert!(CHANNEL_WINDOW >= STREAM_WINDOW_MAX);
const _: () = assert!(STREAM_WINDOW_MAX >= STREAM_WINDOW_ANNOUNCED);
const _: () = assert!(IDENTITY_SIZE_MAX <= FRAME_PAYLOAD_SIZE_MAX);

// ── Tokens ──────────────────────────────────────────────────────────────────────────────────────

/// Octets of a token. Those of sites have about 1 KB, those of directories with many groups up to 6.
pub const TOKEN_SIZE_MAX: usize = 8_192;
/// By so much the clock of an issuer may differ: Windows domains keep theirs within five minutes.
pub const TOKEN_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// The longest life of a registration token, which is that of the original.
pub const TOKEN_REGISTRATION_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Of a device's own token, which is that of the original.
pub const TOKEN_CLIENT_LIFE_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Of a token that CCM_STS gives, which is that of the original.
pub const TOKEN_CCM_LIFE_MAX: Duration = Duration::from_secs(8 * 60 * 60);
/// Issuers of one site: its own, its token service, and a directory for each of some tenants.
pub const TOKEN_ISSUER_COUNT_MAX: usize = 32;
/// Keys of one issuer; the largest public directory has about ten.
pub const TOKEN_KEY_COUNT_MAX: usize = 32;
/// Octets of a key's name; the longest in use is a SHA-256 in hexadecimal digits.
pub const TOKEN_KEY_ID_SIZE_MAX: usize = 128;
/// Audiences, or tenants, of one issuer.
pub const TOKEN_NAME_COUNT_MAX: usize = 64;
/// Octets of a name, issuer, audience or tenant.
pub const TOKEN_NAME_SIZE_MAX: usize = 256;
/// Tokens of one site that are blocked at once; those past their life need not be.
pub const TOKEN_BLOCKED_COUNT_MAX: usize = 8_192;
/// Tokens that one folder of `cmg token` has issued and that have not ended: all of them may be blocked.
pub const TOKEN_ISSUED_COUNT_MAX: usize = 4_096;
const _: () = assert!(TOKEN_ISSUED_COUNT_MAX <= TOKEN_BLOCKED_COUNT_MAX);
/// Octets of a directory's `sub` (OpenID Connect Core 2).
pub const TOKEN_SUBJECT_SIZE_MAX: usize = 255;
/// Octets of a device or user in other tokens: what the token service makes of such a `sub` and its issuer's name.
pub const TOKEN_DEVICE_SIZE_MAX: usize = TOKEN_NAME_SIZE_MAX + 1 + TOKEN_SUBJECT_SIZE_MAX;
/// Octets of what names one of them.
pub const TOKEN_BLOCKED_SIZE_MAX: usize = 128;
/// How often a connection point looks whether other tokens are blocked: with it, what a channel needs
/// and a turn of every shard a token is refused well within two seconds.
pub const TOKENS_WATCHED_EVERY: Duration = Duration::from_millis(500);
/// How often key sets of issuers are fetched: one that was put there beside the old is known long before
/// the issuer signs with it.
pub const TOKEN_KEYS_FETCHED_EVERY: Duration = Duration::from_secs(5 * 60);
/// The same after one could not be had.
pub const TOKEN_KEYS_RETRIED_AFTER: Duration = Duration::from_secs(10);
/// How long keys are believed that cannot be fetched again: an issuer may be away for a day.
/// A gateway believes them for as long once the connection point that fetched them is gone.
pub const TOKEN_KEYS_KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a gateway looks whether that time is over: a minute is little beside a day.
pub const TOKEN_KEYS_LOOKED_AT_EVERY: Duration = Duration::from_secs(60);
/// Names of what a token was given for, by which it is blocked too: what one token may have of its own.
pub const TOKEN_GIVEN_FOR_MAX: usize = 8;
/// Connections that a service inside (token service, issuer) answers on at once, which are those whose handshake is done:
/// each shard of a connection point keeps a few with the token service. One more waits with its place among
/// [`INSIDE_HANDSHAKES_MAX`]; when all of these are taken, further ones wait in the kernel to be accepted.
pub const INSIDE_CONNECTIONS_MAX: usize = 1_024;
/// For a handshake with it; who asks is inside, next door.
pub const INSIDE_HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Handshakes under way at once, apart from the connections: who is no connection point keeps none of their places.
/// A connection that waits for a place counts as one of these.
pub const INSIDE_HANDSHAKES_MAX: usize = 64;
/// Between two requests on one of them, and for a head: longer than a connection point keeps one idle.
pub const INSIDE_HEAD_WITHIN: Duration = Duration::from_secs(150);
/// Bytes of a head: a token, a certificate, and what a connection point adds.
pub const INSIDE_HEAD_SIZE_MAX: usize = 64 * 1024;
/// Tokens that each shard remembers as accepted, so that only the first request with one costs a signature.
/// Of two halves one alone is sure, and as many as a gateway's shard may have clients must fit into that.
/// A few hundred bytes each, and the token.
pub const TOKEN_VERDICT_COUNT_MAX: usize = 2 * DIRECT_SLOTS_MAX as usize;
/// Octets of those tokens, each half of it the half: 19,000 of a directory of the usual 1.7 KB.
pub const TOKEN_VERDICT_SIZE_MAX: usize = 64 * 1024 * 1024;
const _: () = assert!(TOKEN_SIZE_MAX < HEAD_SIZE_MAX);
const _: () = assert!(TOKEN_SIZE_MAX <= TOKEN_VERDICT_SIZE_MAX / 2);

// ── Shard ───────────────────────────────────────────────────────────────────────────────────────

/// Slots of a ring's direct-descriptor table; above the soft limit of open files it fails with EMFILE.
pub const DIRECT_SLOTS_MAX: u32 = 19_000;
/// Open files kept for everything that is not a direct descriptor.
pub const OPEN_FILES_RESERVE: u32 = 500;
/// Slots of a gateway shard kept for outgoing sockets: a full table makes the kernel accept a client
/// and drop it (measured).
pub const OUTGOING_SLOTS: u32 = 256;
/// Completion queue entries of a ring.
pub const COMPLETIONS: u32 = 32_768;
/// Those who may wait for others (notifications) and go on in one turn of a shard that has nobody else: what
/// the first ordinary request stands behind. Each costs some 40 us (docs/capacity.md).
pub const PATIENT_PER_TURN: usize = 32;
/// As many of them a step of a TLS handshake with an origin counts for: two key exchanges, or the signatures of a
/// chain, are some 300 us.
pub const PATIENT_HANDSHAKE: usize = 8;
const _: () = assert!(PATIENT_PER_TURN.is_multiple_of(PATIENT_HANDSHAKE));
/// Those who wait for their turn, at most: what every socket of a shard and the stream behind it would be. 1 MB.
pub const PATIENT_MAX: usize = 2 * DIRECT_SLOTS_MAX as usize;
/// So long after an ordinary request those who may wait go on one by one. Measured with 500 requests a second
/// through two shards, 4 ms apart: the next one is to find it so.
pub const URGENT_WITHIN: Duration = Duration::from_millis(50);
/// Completions that a ring hears in one turn while somebody patient waits: no shard has more sockets.
pub const HEAR_OUT_MAX: usize = DIRECT_SLOTS_MAX as usize;
/// So often a shard offers its CPU to other processes while notifications and ordinary requests come at once.
/// Measured with gateway and connection point on the same CPUs, 28,000 deliveries and 500 ordinary requests a
/// second: with 250 us these took 0.11 ms in both, with 60 us 0.05 (quiet: 0.03), and no fewer were delivered.
/// More often would be after each delivery, and a scheduler may take the CPU away for some milliseconds.
pub const GIVE_WAY_EVERY: Duration = Duration::from_micros(60);
/// Submission queue entries of a ring.
pub const SUBMISSIONS: u32 = 4_096;
/// Buffers that the shard's connections at rest share for receiving.
pub const SHARED_BUFFER_COUNT: u16 = 1_024;
/// Bytes of each of them.
pub const SHARED_BUFFER_SIZE: usize = 4_096;
/// Shared buffers that one socket may hold before its bytes are set aside and it leaves multishot: a
/// head of the greatest size and a little more, so that only a transfer ever does.
pub const SHARED_BUFFERS_HELD_MAX: usize = 8;
/// Transfer buffers that a shard offers to the kernel for connections that wait for their next long body:
/// as many as begin one in the same turn of a busy shard. 2 MB once they have been used; each that was
/// picked is replaced in the same turn. A power of two.
pub const PICKED_BUFFER_COUNT: u16 = 16;
/// Accepts armed at once on one shard, at most.
pub const ACCEPTS_ARMED_MAX: usize = 64;
/// Bytes that one receive or send of a transfer moves at most: eight full TLS records. Below 64 KiB the
/// system calls and wake-ups of every hop cost more than the bytes.
pub const TRANSFER_SIZE: usize = 128 * 1024;
/// Received buffers that one stream may keep from the pool; what comes behind them is copied. So a
/// stalled stream holds so many buffers and its window.
pub const PIECES_SHARED_MAX: usize = 4;
/// Received buffers that the streams of a shard may keep, all together: a few bytes of a stream that
/// nobody reads keep all of one. 66 MB; beyond them, what arrives is copied, and the windows bound it.
pub const LENT_COUNT_MAX: usize = 512;
/// Bytes a pooled transfer buffer holds: so much, with the framing of its records and of one chunk.
pub const TRANSFER_BUFFER_SIZE: usize = TRANSFER_SIZE + 1024;
/// Room before the records of a body that are sealed again where they lie (`transport/reseal.rs`): the
/// headers of frames, which a client's records do not have.
pub const RESEAL_HEADROOM: usize = 256;
/// Plaintext that a connection may hold while it waits for its turn (pipelined requests).
pub const PIPELINE_SIZE_MAX: usize = 32 * 1024;
/// Bytes of a send that is expected to fit the socket's buffer at once, so that nobody need be told that
/// it ended: one full TLS record. Greater ones belong to transfers, which wait for each other.
pub const QUICK_SEND_SIZE_MAX: usize = 16 * 1024 + 256 + 5;
/// Mailboxes of exchanges that ended, kept by each link for the next ones: as many as a busy link has
/// under way, 60 KB.
pub const MAILBOXES_SPARE_MAX: usize = 256;
/// Places of requests that ended, kept by each shard of a gateway for the next ones: 150 KB.
pub const REQUESTS_SPARE_MAX: usize = 512;
/// Tasks that served an exchange, kept by each shard of a connector for the next ones. Each has about
/// 1 KB, all of them together half a megabyte.
pub const EXCHANGE_TASKS_SPARE_MAX: usize = 512;
/// Bytes of the task of a client of a gateway: tens of thousands are at rest.
pub const CLIENT_TASK_SIZE_MAX: usize = 2_048;
/// Bytes of the task of an exchange of a connector: as many wait with a held request.
pub const EXCHANGE_TASK_SIZE_MAX: usize = 1_024;
/// Messages in one shard's inbox.
pub const INBOX_MESSAGES: usize = 8_192;
/// One turn of the deadline wheel.
pub const WHEEL_TICK: Duration = Duration::from_millis(250);

const _: () = assert!(PIPELINE_SIZE_MAX >= HEAD_SIZE_MAX);
const _: () = assert!(SHARED_BUFFERS_HELD_MAX * SHARED_BUFFER_SIZE >= HEAD_SIZE_MAX);
const _: () = assert!(TRANSFER_BUFFER_SIZE >= 2 * (16 * 1024 + 256 + 5));
const _: () = assert!(TRANSFER_BUFFER_SIZE >= RESEAL_HEADROOM + TRANSFER_SIZE + 8 * 22);

/// Waiting at start for an address that is in use: a killed process gives its listeners back within a
/// second.
pub const BIND_WITHIN: Duration = Duration::from_secs(2);

/// Silence on a TCP connection after which the kernel probes it. Between 60 and 120 s: balancers and NAT
/// forget a silent connection after 4 to 5 minutes, some (AWS: 350 s, Azure: 240 s) without telling anyone.
pub const TCP_KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// Between two probes that nobody answers.
pub const TCP_KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// Probes without an answer, after which the connection is lost: a peer that vanished holds its place for
/// two minutes.
pub const TCP_KEEPALIVE_PROBES: u32 = 4;

const _: () = assert!(
    TCP_KEEPALIVE_AFTER.as_secs() + TCP_KEEPALIVE_EVERY.as_secs() * TCP_KEEPALIVE_PROBES as u64 <= 120
);

// ── Clients ─────────────────────────────────────────────────────────────────────────────────────

/// From accept to a finished TLS handshake.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);
/// Arithmetic of handshakes in one turn of a shard, after which the next step waits for another turn. A
/// full handshake is two steps of 100 to 200 us with keys of P-256 (290 to 400 us in all), a resumed one
/// hardly more than one of 100: so there are two to four in a turn, and a request of somebody connected
/// meets them in the two or three turns it takes part in. With one step in each turn what clients are sent
/// leaves one by one, each in a system call of its own.
pub const HANDSHAKE_TURN: Duration = Duration::from_micros(400);
/// Handshakes of one shard that have begun and hold a lease. One core does about 3,000 full ones a second,
/// so that as many are under way on round trips of 340 ms.
pub const HANDSHAKES_BEGUN_MAX: usize = 1_024;
/// How long one holds it: as if it took so long. Peers that begin and fall silent can so take the leases of
/// 1,024 a second, and keep none of them from the next.
pub const HANDSHAKE_LEASE: Duration = Duration::from_secs(1);
/// Clients of one shard whose handshake waits for its turn, from which on no more are accepted. With keys of
/// RSA 2048, the slow ones, a full handshake is about 1 ms: 4.1 s for all of them, twice that on a core that
/// is half busy otherwise, and that is still within [`HANDSHAKE_WITHIN`]. Each holds about 6 KB: 25 MB.
pub const HANDSHAKES_WAITING_MAX: usize = 4_096;
/// Bytes of a PROXY header with its values: addresses of IPv6 take 52, and what a proxy that passes TCP on can
/// say besides (the name asked for, a unique id, a network namespace) some hundreds. Within what one receive
/// brings.
pub const PREFACE_SIZE_MAX: usize = 1_024;
/// Addresses and networks of proxies in front that a gateway may list: each new connection is compared with all.
pub const PROXIES_COUNT_MAX: usize = 64;
/// Bytes kept of a client that waits for its turn in a handshake: one TLS record; the rest stays with it.
pub const HANDSHAKE_AHEAD_SIZE_MAX: usize = 5 + 16 * 1024;
/// Life of a key of session tickets. Tickets of the epoch before are read, so that one is read for 6 to 12
/// hours: a client that comes once a shift resumes, and a stolen key opens half a day.
pub const TICKET_EPOCH: Duration = Duration::from_secs(6 * 60 * 60);
/// By so much the clock of another instance may be ahead at the border of two epochs: tickets of the next
/// one are read so long before it begins. Windows domains keep their clocks within five minutes.
pub const TICKET_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Requests in the time of a rate, and at once, that may be written: a million a second is more than one machine
/// does, and no arithmetic with both goes over.
pub const RATE_COUNT_MAX: u32 = 1_000_000;
/// See [`RATE_COUNT_MAX`].
pub const RATE_BURST_MAX: u32 = 1_000_000;
/// Requests under way at once that may be written as a bound; no instance has so many.
pub const REQUESTS_BOUND_MAX: u32 = 10_000_000;
/// What clients have used is kept of so many at once, each at the instance and at every endpoint with limits of its
/// own, as long as it tells anything: about 20 MB, for 64 maps that are as full as they grow without a resize. With
/// 3,000 new clients a second, the most that a core's handshakes let in, and rates that forget within a minute, one
/// core does not reach it.
pub const CLIENT_ALLOWANCES_MAX: usize = 64 * 3_584;
/// Parts of them, each with a lock of its own, so that two shards hardly ever meet at one.
pub const CLIENT_ALLOWANCE_PARTS: usize = 64;
/// How often one part is looked through for what tells nothing any more, while it is full: 3,584 of them take
/// some 20 us.
pub const ALLOWANCE_SWEEP_EVERY: Duration = Duration::from_millis(100);
/// How fast an address may ask an endpoint that asks for no token, unless its settings say otherwise, and how much
/// at once: a scan of an update service is some dozens of requests, and a hundred devices may share an address.
pub const OPEN_RATE_PER_SECOND: u32 = 100;
/// See [`OPEN_RATE_PER_SECOND`].
pub const OPEN_BURST: u32 = 1_000;
/// From the first byte of a head to its last.
pub const HEAD_WITHIN: Duration = Duration::from_secs(20);
/// Between two reads of a body that is expected, and between two writes that a client must take.
pub const BODY_PROGRESS_WITHIN: Duration = Duration::from_secs(60);
/// A connection without a request, before it is closed.
pub const IDLE_FOR: Duration = Duration::from_secs(180);
/// From a request to the head of its answer, unless the endpoint says otherwise. Client messages
/// carry a 60 s timeout; the origin may use all of it.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// From a held request (client notification) to the head of its answer, and between two pieces of that:
/// longer than the 15 minutes after which a client says that it is there.
pub const HELD_WITHIN: Duration = Duration::from_secs(20 * 60);
/// The least that may be set for it: a minute more than what a client waits, or the two would race.
pub const HELD_WITHIN_MIN: Duration = Duration::from_secs(16 * 60);
/// After so long a client says that it is there.
pub const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(15 * 60);
const _: () = assert!(HELD_WITHIN_MIN.as_secs() >= CLIENT_KEEP_ALIVE.as_secs() + 60);
const _: () = assert!(HELD_WITHIN.as_secs() >= HELD_WITHIN_MIN.as_secs());
/// A tunnel of which one side has ended, while nothing comes from the other: that one has been told, and
/// what it still wants to say it says at once. Programs that never end their side would keep two sockets.
pub const TUNNEL_HALF_OPEN_FOR: Duration = Duration::from_secs(30);
const _: () = assert!(TUNNEL_HALF_OPEN_FOR.as_secs() < HELD_WITHIN_MIN.as_secs());
/// A published URL without a live connection point waits this long; always under the client's 60 s.
pub const WAIT_FOR_CHANNEL: Duration = Duration::from_secs(10);
/// Requests that may wait so on one shard.
pub const WAITING_COUNT_MAX: usize = 4_096;
/// Requests of one client that may wait so for one site on one shard, held ones and others each. A client agent has a handful of
/// connections, one request on each; what asks for more waiting places floods.
pub const WAITING_OF_CLIENT_MAX: usize = 16;
/// Requests of one site, held ones and others together, that are called at once to look whether a link has room. A
/// link with room takes so many heads of the greatest size before it has a backlog.
pub const WAITING_CALLED_MAX: usize = 32;
/// Bytes read of a client while its request waits, to see that it left; the rest stays with it.
pub const WAITING_AHEAD_SIZE_MAX: usize = 8 * 1024;
/// Closing: bytes and time read over after an early refusal, so that the client sees the answer
/// before a reset.
pub const LINGER_SIZE_MAX: usize = 256 * 1024;
/// See [`LINGER_SIZE_MAX`].
pub const LINGER_FOR: Duration = Duration::from_secs(2);
/// Bytes of a client's certificate chain, all certificates together.
pub const CERTIFICATE_CHAIN_SIZE_MAX: usize = 32 * 1024;
/// Intermediates a client may send.
pub const INTERMEDIATE_COUNT_MAX: usize = 6;
/// Bytes of a revocation list: some 200,000 entries. A gateway keeps 20 bytes of each.
pub const CRL_SIZE_MAX: usize = 8 * 1024 * 1024;
/// Revocation lists of a site: complete ones and deltas of as many authorities as a large company has.
pub const CRL_COUNT_MAX: usize = 64;
/// Authorities without a list in force of which a gateway says so: those of several sites. The names are those of
/// trusted authorities and what these signed, but nobody bounds how many that is.
pub const UNLISTED_TOLD_MAX: usize = 4 * CRL_COUNT_MAX;
/// Bytes of a site's block list: [`BLOCKED_COUNT_MAX`] lines of 100.
pub const BLOCK_LIST_SIZE_MAX: usize = 1024 * 1024;
/// Certificates on a site's block list. Who has more to shut out revokes them.
pub const BLOCKED_COUNT_MAX: usize = 10_000;
/// Rules of admission of one kind.
pub const ALLOW_RULE_COUNT_MAX: usize = 64;
/// By so much the clock of an authority may be ahead: a list that begins in the future by more is refused.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Percent of its life at which a revocation list that nothing followed is told of.
pub const CRL_LIFE_ALARM: u64 = 80;
/// A file with a list is looked at so often, and so is whether another shard should hear of one.
pub const LIST_FILE_EVERY: Duration = Duration::from_secs(1);
/// The files of the certificates that clients are shown are looked at so often. A change is judged when the next
/// look finds no further one: of a chain and its key one is written before the other.
pub const CERTIFICATE_FILES_EVERY: Duration = Duration::from_secs(1);
/// The issuer looks at the file of the list that revokes internal certificates so often: with it, whoever asks for the
/// list and a turn of every shard, who is revoked is cut within five seconds.
pub const INTERNAL_FILES_EVERY: Duration = Duration::from_secs(1);
/// The issuer is asked for the list so often, where one is named.
pub const INTERNAL_LIST_ASKED_EVERY: Duration = Duration::from_secs(2);
/// Lists of revoked internal certificates of one connection point that are judged at once, a quarter of a second apart;
/// the others wait their turn. So all that its channels may say has been after four seconds.
pub const INTERNAL_LISTS_JUDGED_MAX: usize = 32;
/// Lists of one connection point that are kept although they begin in the future: the one before and the new one, of each
/// of two processes while one takes the other's place.
pub const INTERNAL_LISTS_EARLY_MAX: usize = 4;
/// A list that came over a channel and begins in the future by the gateway's clock is judged again so often, for that
/// may be put right at any time: a few signatures for each connection point.
pub const INTERNAL_LIST_JUDGED_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// For an answer of the issuer, from the name to the last byte.
pub const ISSUER_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Until a gateway takes it that nothing comes of what it asked for over a channel: the issuer's time and more.
pub const RENEWAL_ANSWER_WITHIN: Duration = Duration::from_secs(20);
const _: () = assert!(ISSUER_ANSWER_WITHIN.as_secs() < RENEWAL_ANSWER_WITHIN.as_secs());
/// A role looks so often whether its internal certificate is to be renewed.
pub const RENEWAL_LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a certificate could not be renewed, the first wait and the longest; a tenth of what it still lives is passed by
/// the first alone.
pub const RENEWAL_AGAIN_FIRST: Duration = Duration::from_secs(10);
/// See [`RENEWAL_AGAIN_FIRST`].
pub const RENEWAL_AGAIN_LONGEST: Duration = Duration::from_secs(60 * 60);
/// Renewals that a connection point carries for gateways at once, each on a thread of its own.
pub const RENEWALS_CARRIED_MAX: usize = 4;
/// Between two renewals that are carried for one instance. Honest ones ask again after [`RENEWAL_AGAIN_FIRST`].
pub const RENEWAL_CARRIED_EVERY: Duration = Duration::from_secs(5);
/// Certificates of one identity that are good at once, beyond which the issuer makes no other: all of them go on the
/// list when it is revoked, and whoever holds its key must not make that longer than anybody reads. A role that renews
/// has two; the rest is for answers that did not arrive.
pub const ISSUED_GOOD_MAX: usize = 16;
/// Of 300 identities the issuer's list has room for all, at 50 bytes each.
const _: () = assert!(300 * ISSUED_GOOD_MAX * 50 <= INTERNAL_LIST_SIZE_MAX);
/// A serial number leaves the internal list so long after its certificate has ended, for clocks differ.
pub const LISTED_BEYOND_END: Duration = Duration::from_secs(24 * 60 * 60);
const _: () = assert!(LISTED_BEYOND_END.as_secs() > CLOCK_SKEW.as_secs());
/// What the issuer made is remembered so long: for as long as the request can be sent again, since it may be from a
/// clock that is ahead.
pub const RENEWAL_REMEMBERED_FOR: Duration = Duration::from_secs(2 * RENEWAL_WITHIN.as_secs());
/// Of so many, the last ones: 2 MB.
pub const RENEWALS_REMEMBERED_MAX: usize = 1_024;
/// Connections with the issuer of one identity: its question for the list, its own renewal, and those it carries.
pub const ISSUER_CONNECTIONS_EACH_MAX: usize = 8;
const _: () = assert!(ISSUER_CONNECTIONS_EACH_MAX >= RENEWALS_CARRIED_MAX + 2);
/// Handshakes with the issuer under way from one address: a quarter of all, for several connection points on it. A network
/// of IPv6 has half of all, for any of its addresses may be one machine's.
pub const ISSUER_HANDSHAKES_EACH_MAX: usize = INSIDE_HANDSHAKES_MAX / 4;
/// The whole life of a connection with the issuer, which is for one question. Whoever asks waits no longer.
pub const ISSUER_CONNECTION_WITHIN: Duration = Duration::from_secs(15);
const _: () = assert!(ISSUER_ANSWER_WITHIN.as_secs() < ISSUER_CONNECTION_WITHIN.as_secs());
/// The internal list that issuer and `cmg pki revoke` sign is good for so long. The issuer signs the next when a third
/// of it is over.
pub const INTERNAL_LIST_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Settings and the files that they name are looked at so often. A change is judged when the next look finds no further
/// one: it is in force everywhere within two seconds.
pub const RELOAD_LOOK_EVERY: Duration = Duration::from_millis(500);
/// Files that are wrong are judged again after so long, though they have not changed: a certificate that was not valid
/// yet may be.
pub const RELOAD_JUDGED_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// For channels by other settings to stand; the connection point is Degraded when it takes longer.
pub const MOVED_WITHIN: Duration = Duration::from_secs(15);
/// For every shard to take up other settings before gateways are told of them: a turn or two of its loop.
pub const RELOAD_TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Lists that instances refused are offered again so often.
pub const LIST_OFFER_EVERY: Duration = Duration::from_secs(60);
/// Lists that a gateway reads at once, each on a thread of its own, of as many connection points as may be: to
/// read one of 8 MiB takes a tenth of a second and ten times its memory.
pub const LISTS_READ_AT_ONCE_MAX: usize = 2;
/// A list is fetched by HTTP so often unless written otherwise; authorities publish once a day or hour.
pub const LIST_FETCH_EVERY: Duration = Duration::from_secs(300);
/// For one fetch, from the name to the last byte.
pub const LIST_FETCH_WITHIN: Duration = Duration::from_secs(30);
/// Connections that are woken in one turn after a list changed. Each reads its chain once more and looks it
/// up, without a signature, so that requests of others wait a millisecond or two.
pub const RECHECKED_PER_TURN: usize = 64;
/// Chains of clients that one shard remembers as accepted, so that a client that comes back costs no
/// signature: of two halves one alone is sure, and as many as it may have clients fit into that. About 300
/// bytes each, 600 at most.
pub const VERDICT_COUNT_MAX: usize = 2 * DIRECT_SLOTS_MAX as usize;

const _: () = assert!(TICKET_EPOCH.as_secs() <= 12 * 60 * 60);
const _: () = assert!(TICKET_CLOCK_SKEW.as_secs() < TICKET_EPOCH.as_secs());

// ── Origins ─────────────────────────────────────────────────────────────────────────────────────

/// Connections of one connector shard to one origin.
pub const ORIGIN_CONNECTIONS_MAX: usize = 1_024;
/// Held requests (client notification) of one connector shard to one origin, each on a connection apart from
/// those above: nearly all that the shard's table has slots for.
pub const ORIGIN_HELD_MAX: usize = 18_000;
/// Requests waiting for one of them on one shard.
pub const ORIGIN_WAITING_MAX: usize = 4_096;
const _: () = assert!(ORIGIN_HELD_MAX + OUTGOING_SLOTS as usize + 500 <= DIRECT_SLOTS_MAX as usize);

/// Waiting for a free connection to an origin.
pub const ORIGIN_WAIT: Duration = Duration::from_secs(10);
/// TCP connect and TLS handshake with an origin.
pub const ORIGIN_CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// When an origin comes back, all that it may hold shake hands in turns. By these budgets the last is in time where a
/// shard has nothing else to do and the origin speaks TLS 1.3, which costs each a turn and one step; otherwise some
/// are late, and their clients ask again.
const _: () =
    assert!(ORIGIN_HELD_MAX * (1 + PATIENT_HANDSHAKE) * 40 < ORIGIN_CONNECT_WITHIN.as_micros() as usize);
/// Keep-alive time an origin is assumed to have; IIS: 120 s, nginx: 75 s, Apache: 5 s.
pub const ORIGIN_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// 100-continue: the connector starts the body after this long without an answer.
pub const CONTINUE_WITHIN: Duration = Duration::from_secs(1);
/// Origins that stand for one another: a site has hardly more than four servers for one role. Which of them a request
/// has been to is a bit each.
pub const GROUP_ORIGINS_MAX: usize = 16;
const _: () = assert!(GROUP_ORIGINS_MAX <= u16::BITS as usize);
/// Origins of one site: four for each role. What is told of each bears its name, so this bounds the labels.
pub const ORIGIN_COUNT_MAX: usize = 4 * ROLE_COUNT_MAX;
/// Between two probes of an origin.
pub const PROBE_EVERY: Duration = Duration::from_secs(5);
/// The same after one whose outcome was not what the origin is taken for: the next ones decide.
pub const PROBE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// For a probe: far beyond what an origin next door needs.
pub const PROBE_WITHIN: Duration = Duration::from_secs(2);
/// Octets of what a probe asks for.
pub const PROBE_PATH_SIZE_MAX: usize = 1_024;
/// Octets of the head of its answer, and what comes with it.
pub const PROBE_ANSWER_SIZE_MAX: usize = HEAD_SIZE_MAX + TRANSFER_SIZE;
/// Failures in a row, of requests on one shard or of probes, after which an origin is down: one lost packet is
/// nothing, three in a row are.
pub const UNREACHED_COUNT: u32 = 3;
/// A client that leaves after an origin has had its whole request for so long without an answer: that is a failure of
/// the origin, as if its time had run out. Clients go after 60 s, before [`ANSWER_WITHIN`] is over.
pub const ORIGIN_SILENT_AFTER: Duration = Duration::from_secs(30);
const _: () = assert!(ORIGIN_SILENT_AFTER.as_secs() < ANSWER_WITHIN.as_secs());
/// Shards tell each other at most so often that an origin answers.
pub const ORIGIN_ALIVE_EVERY: Duration = Duration::from_secs(1);
/// So long behind an answer an origin is alive, whatever becomes of single requests sent to it: who sends some that it
/// aborts does not take it from the others. One that is gone is found by the connections that it refuses.
pub const ORIGIN_ALIVE_FOR: Duration = Duration::from_secs(2);
const _: () = assert!(ORIGIN_ALIVE_FOR.as_secs() > ORIGIN_ALIVE_EVERY.as_secs());
/// Probes in a row that must pass before an origin that was down is asked again.
pub const PROBE_SUCCESSES: u32 = 2;
/// The most that may be written for either.
pub const ORIGIN_FAILURES_MAX: u32 = 100;
/// An origin that fell again before it had its whole share needs twice as many probes the next time, and so on, so
/// often: the connection to one that accepts and answers nothing is made in vain ever more rarely.
pub const RELAPSES_DOUBLED_MAX: u32 = 5;
/// Time in which the share of an origin that was down grows to that of the others: processes that were just
/// started compile, and fill their caches.
pub const SLOW_START: Duration = Duration::from_secs(30);
/// Percent of its turns that it has at the beginning of that time.
pub const RISING_SHARE_LEAST: u32 = 10;
/// An origin that has taken no connection for so long while some are being made is passed over while another
/// takes them: a handshake next door needs some milliseconds.
pub const CONNECT_STALLED_AFTER: Duration = Duration::from_secs(1);
/// Upload sessions of which one shard remembers the origin, in two halves of which one alone is sure. Devices upload
/// once a day or week, for minutes; 2 MB.
pub const UPLOADS_REMEMBERED_MAX: usize = 32_768;
/// How long one is remembered behind the last packet that its origin acknowledged, at least; twice that at most. BITS tries again after minutes.
pub const UPLOADS_REMEMBERED_FOR: Duration = Duration::from_secs(12 * 60 * 60);

// ── Settings ────────────────────────────────────────────────────────────────────────────────────

/// Roles of one site.
pub const ROLE_COUNT_MAX: usize = 1_024;
/// Publishing endpoints of one role.
pub const ENDPOINT_COUNT_MAX: usize = 64;
/// Sites on one gateway.
pub const SITE_COUNT_MAX: usize = 256;
/// Trust anchors and uploaded intermediates of one site.
pub const TRUST_COUNT_MAX: usize = 256;
/// Greatest request length of a standard endpoint unless written otherwise: client policy replies
/// reach 32 MiB, inventory fragments and collected files more, package uploads most.
pub const REQUEST_LENGTH_MAX_DEFAULT: u64 = 4 * 1024 * 1024 * 1024;

// ── http ────────────────────────────────────────────────────────────────────────────────────────

/// Bytes of `Host`: the longest DNS name (253) with `:65535`.
pub const HOST_SIZE_MAX: usize = 253 + 6;
/// Field names that `Connection` may declare hop-by-hop besides the well-known ones. Every field is
/// compared with each of them, so the count bounds the work; real clients name none.
pub const CONNECTION_TOKEN_COUNT_MAX: usize = 8;
/// Framing bytes by which a chunked body may outrun its data (as in Go after CVE-2023-39326): one-byte
/// chunks with long extensions would otherwise cost a hundred times what they carry.
pub const CHUNK_OVERHEAD_SIZE_MAX: u64 = 16 * 1024;

// ── channel core ────────────────────────────────────────────────────────────────────────────────

/// Bytes a channel holds ready to send before new streams and heads must wait too. Above
/// [`CHANNEL_OUT_SIZE_MAX`], so that a small exchange never waits for bulk.
pub const CHANNEL_OUT_SIZE_HARD_MAX: usize = 1024 * 1024;
/// Bytes ready to send above which the peer plainly does not read: the channel ends. Only END, RESET,
/// CREDIT and PONG can pass [`CHANNEL_OUT_SIZE_HARD_MAX`]; those of all streams together stay below.
pub const CHANNEL_OUT_STALLED_SIZE: usize = 16 * 1024 * 1024;
/// PONGs that may stand in the send buffer at once; an honest peer has one PING unanswered.
pub const PONG_COUNT_MAX: u32 = 16;
/// The round trip is measured at least this often, so that windows grow by a figure of today.
pub const ROUND_TRIP_EVERY: Duration = Duration::from_secs(30);
/// Settings pieces are queued while less than this waits to be sent, so that answers do not stand
/// behind a whole publication.
pub const SETTINGS_FEED_SIZE: usize = 32 * 1024;
/// Instances a hello reply may list.
pub const INSTANCE_COUNT_MAX: usize = 32;
/// Bytes of a name, an address or a text that travels with a one-byte length.
pub const CHANNEL_TEXT_SIZE_MAX: usize = 255;

const _: () = assert!((INSTANCE_COUNT_MAX + 3) * (1 + CHANNEL_TEXT_SIZE_MAX) <= FRAME_PAYLOAD_SIZE_MAX);
const _: () = assert!(CHANNEL_OUT_SIZE_HARD_MAX > CHANNEL_OUT_SIZE_MAX + FRAME_PAYLOAD_SIZE_MAX);
const _: () = assert!(
    CHANNEL_OUT_SIZE_HARD_MAX - CHANNEL_OUT_SIZE_MAX
        >= WAITING_CALLED_MAX * (FRAME_HEADER_SIZE + FRAME_PAYLOAD_SIZE_MAX)
);
const _: () = assert!(CHANNEL_OUT_STALLED_SIZE > CHANNEL_OUT_SIZE_HARD_MAX + STREAM_COUNT_MAX * 64);

// ── settings and mapping ────────────────────────────────────────────────────────────────────────

/// Shards of one process: hello counts them, and no machine in sight has more CPUs to give.
pub const SHARD_COUNT_MAX: u16 = 256;

// ── connector ───────────────────────────────────────────────────────────────────────────────────

/// Bytes of a reason phrase that are passed on; the longest registered one has 31.
pub const REASON_SIZE_MAX: usize = 256;
/// A connection point that ends asks gateways to open no further request, and waits so long for their answers: a
/// round trip of the slowest line, and that of a gateway that has much to do.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// A channel that lived this long was sound: reconnecting starts with the short wait again. With 10 s an instance
/// that was killed every 9 s was dialled later each time, after 6 s at the fifth, and all its clients waited.
pub const CHANNEL_SOUND_AFTER: Duration = Duration::from_secs(3);

// ── drain and upgrade ───────────────────────────────────────────────────────────────────────────

/// After a signal, for a gateway and a connection point: requests may end within this time, unless written
/// otherwise, before channels are closed. systemd and container platforms wait 30 s and more before they kill.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Clients at rest of which one shard takes leave in a second: they come back at once, to this machine or to
/// another, and a core does some 3,000 full handshakes a second beside its other work.
pub const PARTINGS_PER_SECOND: u32 = 2_000;
/// Percent of the grace time within which clients at rest are taken leave of, however many they are.
pub const PARTING_OF_RESTING_PERCENT: u32 = 50;
/// Percent of it within which held requests are ended: what is left is for their answers to leave.
pub const PARTING_OF_HELD_PERCENT: u32 = 90;
const _: () = assert!(PARTING_OF_RESTING_PERCENT <= PARTING_OF_HELD_PERCENT && PARTING_OF_HELD_PERCENT < 100);
/// Listening sockets that one process hands to the next, in one message. The kernel takes 253 (SCM_MAX_FD); a
/// gateway has some for each family and address.
pub const HANDOVER_SOCKETS_MAX: usize = 64;
/// Bytes of one message between the two: a list of so many addresses has 1,541.
pub const HANDOVER_MESSAGE_SIZE_MAX: usize = 4_096;
/// For a step of one of them that waits for nobody: its first word, taking accepts back, arming them. Milliseconds,
/// and an acceptor may sleep 200 of them after a failure; the rest is for a machine that is busy.
pub const HANDOVER_STEP_WITHIN: Duration = Duration::from_secs(5);
/// From the sockets to the first turn of the new process: it reads what is kept of every site.
pub const HANDOVER_START_WITHIN: Duration = Duration::from_secs(60);
/// For channels to a new gateway, and for those of a new connection point, as long as there are fewer than the
/// old process has: a hello may take [`HELLO_WITHIN`], and one that failed is tried once more.
pub const HANDOVER_CHANNELS_WITHIN: Duration = Duration::from_secs(15);
/// No further channel came for so long: a connection point dials its second and later ones when the first has
/// told it how many shards there are.
pub const HANDOVER_SETTLED_AFTER: Duration = Duration::from_millis(300);
/// From the first turn of the new process until it can do the work.
pub const HANDOVER_READY_WITHIN: Duration = Duration::from_secs(30);
const _: () = assert!(HANDOVER_CHANNELS_WITHIN.as_secs() > HELLO_WITHIN.as_secs());
const _: () = assert!(HANDOVER_READY_WITHIN.as_secs() > HANDOVER_CHANNELS_WITHIN.as_secs());
/// From TAKEN until the old process has left or said that it goes on: longer than it waits for TAKEN, for one of the
/// two is to be known. Later the new one ends.
pub const HANDOVER_VERDICT_WITHIN: Duration = Duration::from_secs(10);
const _: () = assert!(HANDOVER_VERDICT_WITHIN.as_secs() > HANDOVER_STEP_WITHIN.as_secs());
/// How long `cmg upgrade` waits for the process that it started: for all of the above.
pub const UPGRADE_WITHIN: Duration = Duration::from_secs(120);
const _: () = assert!(
    UPGRADE_WITHIN.as_secs()
        > HANDOVER_START_WITHIN.as_secs()
            + HANDOVER_READY_WITHIN.as_secs()
            + 3 * HANDOVER_STEP_WITHIN.as_secs()
            + HANDOVER_VERDICT_WITHIN.as_secs()
);

// ── commands ────────────────────────────────────────────────────────────────────────────────────

/// Bytes of a table of proxy routings: a row has a few hundred, a site with all the roles it may have
/// ([`ROLE_COUNT_MAX`], [`ENDPOINT_COUNT_MAX`]) 130,000 rows in both families.
pub const IMPORT_SIZE_MAX: u64 = 64 << 20;

// ── logs ────────────────────────────────────────────────────────────────────────────────────────

/// Bytes of the access log's file unless written otherwise: a few hundred thousand requests, twice
/// with the renamed file beside it.
pub const ACCESS_LOG_SIZE_MAX_DEFAULT: u64 = 64 << 20;
/// Lines of a log that may wait for standard error; beyond them lines are left out and counted. A few
/// hundred bytes each, so about a megabyte; a journal that stands still must cost no more.
pub const LOG_LINES_MAX: usize = 4_096;
/// Bytes of one value in a line of the log. The longest we write ourselves is a path of 256.
pub const LOG_VALUE_SIZE_MAX: usize = 2_048;
/// Bytes written to standard error at once.
pub const LOG_WRITE_SIZE: usize = 64 * 1024;
/// At the end of the process, for the lines that still wait.
pub const LOG_FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// Requests told to the access log that its writer has not yet written, on one shard: the writer comes
/// every 20 ms, so a shard would have to end 400,000 requests a second to lose a line.
pub const ACCESS_LOG_QUEUE: usize = 8_192;
/// Bytes of one text in a log line that a peer may have chosen; longer ones are cut. The longest that
/// matter, subjects of certificates and what is wrong with one, have about 200.
pub const LOG_TEXT_SIZE_MAX: usize = 384;
/// Bytes of a path that a log shows.
pub const LOG_PATH_SIZE_MAX: usize = 256;
/// Lines of one kind (refusals, failed handshakes) that one shard writes at once.
pub const LOG_LINES_BURST: u32 = 100;
/// And then each second: a stranger must not fill the disk, and 20 say what is going on.
pub const LOG_LINES_PER_SECOND: u32 = 20;

const _: () = assert!(LOG_TEXT_SIZE_MAX * 8 <= u16::MAX as usize);

// ── headroom ────────────────────────────────────────────────────────────────────────────────────

/// Percent of a bound in use at which it comes near: with a fifth left there is time to do something.
pub const HEADROOM_NEAR: u64 = 80;
/// Percent at which it is about to be reached.
pub const HEADROOM_SCARCE: u64 = 95;
/// Points below a threshold before it counts as left, so that what sways around it is told once.
pub const HEADROOM_LEFT_BELOW: u64 = 10;
/// Ports of one slice in which the kernel looks for a free one: it looks through half of all, a look at
/// each, before it tries the other half; with half of 28,000 in use every connect would cost milliseconds.
pub const PORT_SLICE: u16 = 512;

/// Percent of the ports of a source address towards an origin that held requests (client notification) and
/// tunnels may use: they keep theirs for as long as clients are there. The rest is for requests that are soon
/// answered; of 28,000 ports 2,800, more than one origin is given connections by two shards.
pub const HELD_PORTS_PERCENT: u64 = 90;

const _: () = assert!(HELD_PORTS_PERCENT < 100);
const _: () = assert!(28_232 * (100 - HELD_PORTS_PERCENT) / 100 >= 2 * ORIGIN_CONNECTIONS_MAX as u64);
const _: () = assert!(HEADROOM_LEFT_BELOW < HEADROOM_NEAR && HEADROOM_NEAR < HEADROOM_SCARCE);
const _: () = assert!(HEADROOM_SCARCE - HEADROOM_LEFT_BELOW > HEADROOM_NEAR);

// ── metrics ─────────────────────────────────────────────────────────────────────────────────────

/// Publishing endpoints, each in one family, that are counted for themselves: a site with thirty
/// management points. The text of so many has about 5 MB, which a scrape still takes in a second.
pub const SERIES_COUNT_MAX: usize = 2_048;

// ── admin listeners and control socket ──────────────────────────────────────────────────────────

/// Connections at once to each of them: a few scrapers and a curious operator. One more, and the oldest
/// is shown out.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Such a connection's whole life. Whoever still wants to ask then connects again.
pub const ADMIN_CONNECTION_WITHIN: Duration = Duration::from_secs(60);
/// For its TLS handshake, and for the head of each request: strangers hold no place for long.
pub const ADMIN_HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a request's head there; hyper takes no lower bound than half of it.
pub const ADMIN_HEAD_SIZE_MAX: usize = 16 * 1024;
/// Bytes of a command's body on the control socket: one word today.
pub const CONTROL_BODY_SIZE_MAX: usize = 1_024;
/// Bytes of a file with its certificates or its key; a chain has about 10,000.
pub const ADMIN_PEM_SIZE_MAX: u64 = 1 << 20;
/// Characters of an admin token: 32 of base64 carry 192 bits.
pub const ADMIN_TOKEN_SIZE_MIN: usize = 32;
/// See [`ADMIN_TOKEN_SIZE_MIN`]; it must fit a request's head.
pub const ADMIN_TOKEN_SIZE_MAX: usize = 4_096;
/// Longest time for which another log level may be asked for: who wants it for longer writes it down.
pub const LOG_LEVEL_FOR_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// For the answer to a question of `cmg status` or `cmg log-level`.
pub const ADMIN_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of such an answer: `/status` of a full gateway with all its sites is far below.
pub const ADMIN_ANSWER_SIZE_MAX: usize = 16 * 1024 * 1024;

const _: () = assert!(ADMIN_TOKEN_SIZE_MAX * 2 <= ADMIN_HEAD_SIZE_MAX);
const _: () = assert!(ADMIN_HEAD_WITHIN.as_secs() < ADMIN_CONNECTION_WITHIN.as_secs());
