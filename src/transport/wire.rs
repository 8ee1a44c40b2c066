//! A wire: one TCP connection with or without TLS, as a task reads and writes it.
//!
//! Plain bytes in, plain bytes out, and three buffers that are empty at rest: what was decrypted and
//! not consumed, the beginning of a record, and what is to be sent. A wire at rest receives into the
//! shard's shared buffers; one in a transfer (`use_own_buffer`) receives into its own, and not
//! reading it is the back-pressure.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::records::{self, Opened};
use super::reseal;
use super::tls::Tls;
use crate::limits;
use crate::shard::{Lent, Outgoing, Polled, Ring, Socket};

/// One TCP connection with or without TLS.
pub struct Wire {
    socket: Socket,
    tls: Option<Tls>,
    plain: Vec<u8>,
    /// Where the unconsumed part of `plain` begins.
    at: usize,
    cipher: Vec<u8>,
    /// Records that were sealed where they lie, to be sent before `out`; once there were any.
    sealed: Option<Box<Sealed>>,
    out: Vec<u8>,
    own_buffer: bool,
    /// See [`Wire::expect_transfer`].
    expects_transfer: bool,
    /// Where the records in `cipher` begin; not 0 while there is room before them that is kept, so that they
    /// can be passed on.
    headroom: u32,
    read_closed: bool,
    /// `out` may wait for what is written next.
    held: bool,
}

/// Parts of buffers, in the order in which they leave. Behind a pointer in [`Wire`], because most wires, and
/// all that are at rest, have none.
#[derive(Default)]
struct Sealed(VecDeque<Outgoing>);

/// What is left of a wire that moves to another shard.
pub struct Parts {
    /// The connection.
    pub fd: OwnedFd,
    /// Its TLS state.
    pub tls: Option<Tls>,
    /// Decrypted and not consumed.
    pub plain: Vec<u8>,
    /// The beginning of a record.
    pub cipher: Vec<u8>,
}

impl Wire {
    /// A wire over a connected socket.
    pub fn new(socket: Socket, tls: Option<Tls>) -> Wire {
        let (plain, cipher, out) = (Vec::new(), Vec::new(), Vec::new());
        let (at, sealed, own_buffer, expects_transfer, headroom, read_closed, held) = Default::default();
        Wire {
            socket,
            tls,
            plain,
            at,
            cipher,
            sealed,
            out,
            own_buffer,
            expects_transfer,
            headroom,
            read_closed,
            held,
        }
    }

    /// A wire that was begun on another shard.
    pub fn from_parts(ring: &Rc<Ring>, parts: Parts) -> Wire {
        let mut wire = Wire::new(Socket::from_file(ring, parts.fd), parts.tls);
        wire.plain = parts.plain;
        wire.cipher = parts.cipher;
        wire
    }

    /// Takes the wire apart, to go on elsewhere; `None` while anything is in flight.
    pub fn into_parts(self) -> Option<Parts> {
        let fd = self.socket.duplicate()?;
        Some(self.into_parts_with(fd))
    }

    /// The same, with a descriptor of [`Wire::portable`]; nothing was read or written since.
    pub fn into_parts_with(mut self, fd: OwnedFd) -> Parts {
        self.drop_headroom();
        let plain = self.plain.split_off(self.at);
        let (tls, cipher) = (self.tls.take(), std::mem::take(&mut self.cipher));
        Parts { fd, tls, plain, cipher }
    }

    /// A descriptor with which the connection can go on elsewhere, where there can be one: see [`Socket::portable`].
    pub async fn portable(&self) -> Option<OwnedFd> {
        self.socket.portable().await
    }

    /// From now on `tls` protects what is sent and received: behind words with a proxy that were not protected, or
    /// instead of another that has not answered the hello yet.
    pub fn begin_tls(&mut self, tls: Tls) {
        debug_assert!(self.received().is_empty() && self.nothing_waits(), "nothing is under way without it");
        self.tls = Some(tls);
    }

    /// The TLS state, if there is one.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The ring under this wire.
    pub fn ring(&self) -> &Rc<Ring> {
        self.socket.ring()
    }

    // ── reading ─────────────────────────────────────────────────────────────────────────────────

    /// Plain bytes received and not consumed.
    pub fn received(&self) -> &[u8] {
        &self.plain[self.at..]
    }

    /// Whether bytes of the peer are here that nobody has read, opened or not.
    pub fn has_unread(&self) -> bool {
        !self.received().is_empty() || self.headroom > 0 && self.first_record().is_some()
    }

    /// Whether the peer sends nothing more (end of file or closing alert).
    pub fn is_read_closed(&self) -> bool {
        self.read_closed
    }

    /// Marks `size` bytes of [`Wire::received`] as done with.
    pub fn consume(&mut self, size: usize) {
        self.at += size;
        debug_assert!(self.at <= self.plain.len());
        if self.at == self.plain.len() {
            self.at = 0;
            if self.plain.capacity() > 0 {
                self.socket.ring().pool.borrow_mut().give_back(std::mem::take(&mut self.plain));
            }
        }
    }

    /// Takes what was received and not consumed out of the wire: it begins at the second value. What is
    /// not used comes back by [`Wire::put_back`].
    pub(super) fn take_received(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.plain), std::mem::take(&mut self.at))
    }

    /// Puts the end of what was taken back: few bytes, which are copied.
    pub(super) fn put_back(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            let mut pool = self.socket.ring().pool.borrow_mut();
            self.plain = if rest.len() <= 2048 { pool.small() } else { pool.large() };
            self.plain.extend_from_slice(rest);
        }
    }

    /// Receives into a buffer of its own from now on (true), or into the shard's (false).
    pub fn use_own_buffer(&mut self, own: bool) {
        self.own_buffer = own;
        // Whole records are opened first, by the next that reads.
        if !own && self.headroom > 0 && self.first_record().is_none() && !self.socket.is_receiving_owned() {
            self.leave_records();
        }
    }

    /// What comes next is likely the head of a long body, as the last request's was: it is received into a
    /// large buffer, which is picked when bytes come. Otherwise a body's first 128 KiB come by four, and are
    /// copied (measured: 5 % of the gateway's CPU for a body of 1 MiB).
    pub fn expect_transfer(&mut self, expects: bool) {
        self.expects_transfer = expects;
    }

    /// One at rest must not hold the room of a transfer for the beginning of a record.
    fn leave_records(&mut self) {
        self.drop_headroom();
        let mut pool = self.socket.ring().pool.borrow_mut();
        let mut rest = Vec::new();
        if !self.cipher.is_empty() {
            rest = pool.small();
            rest.extend_from_slice(&self.cipher);
        }
        pool.give_back(std::mem::replace(&mut self.cipher, rest));
    }

    /// Stops receiving until the next [`Wire::poll_fill`]: what the peer sends stays with it. Who waits
    /// for anything else than bytes of a peer that may send calls this at every poll: a receive that
    /// goes on would take the buffers that the whole shard shares, and what arrived already is moved
    /// out of them.
    pub fn pause(&self) {
        self.socket.leave_shared();
    }

    /// Waits for plain bytes and adds them to [`Wire::received`]. False is the end of the stream;
    /// so is an end without TLS's closing alert, which callers that read until the end must ask
    /// [`Wire::is_cleanly_closed`] about.
    pub fn poll_fill(&mut self, context: &Context<'_>) -> Polled<bool> {
        if self.read_closed {
            return Poll::Ready(Ok(false));
        }
        if self.at > 0 {
            // What is left is the beginning of something; more goes behind it.
            self.plain.copy_within(self.at.., 0);
            self.plain.truncate(self.plain.len() - self.at);
            self.at = 0;
        }
        let before = self.plain.len();
        loop {
            if self.tls.as_ref().is_some_and(Tls::is_peer_closed) {
                self.read_closed = true;
                return Poll::Ready(Ok(false));
            }
            if self.headroom > 0 && self.first_record().is_some() {
                // Those behind it may be passed on.
                self.decrypt_first()?;
                if self.plain.len() > before {
                    return Poll::Ready(Ok(true));
                }
                continue;
            }
            match std::task::ready!(self.poll_receive(context)) {
                Ok(true) => {}
                Ok(false) => {
                    self.read_closed = true;
                    return Poll::Ready(Ok(false));
                }
                Err(error) => {
                    // The alert that tells the peer what it did wrong, if it can leave at once.
                    self.held = false;
                    let _ = self.start_send();
                    return Poll::Ready(Err(error));
                }
            }
            if self.plain.len() > before {
                return Poll::Ready(Ok(true));
            }
            // A message of TLS itself; what answers it must leave.
            self.start_send()?;
        }
    }

    /// Whether the stream ended by TLS's closing alert (or needs none).
    pub fn is_cleanly_closed(&self) -> bool {
        self.tls.as_ref().is_none_or(Tls::is_peer_closed)
    }

    fn poll_receive(&mut self, context: &Context<'_>) -> Polled<bool> {
        if self.own_buffer || self.socket.is_receiving_owned() {
            self.poll_own(context)
        } else if self.picks() {
            self.poll_picked(context)
        } else {
            self.poll_shared(context)
        }
    }

    fn picks(&self) -> bool {
        let begins = self.expects_transfer && self.cipher.is_empty() && self.socket.is_at_rest();
        let may_begin = begins && self.tls.as_ref().is_some_and(Tls::is_handed_over);
        self.socket.is_receiving_picked() || may_begin && self.socket.ring().can_pick()
    }

    fn poll_picked(&mut self, context: &Context<'_>) -> Polled<bool> {
        let Some(bytes) = std::task::ready!(self.socket.poll_recv_picked(context))? else {
            return Poll::Ready(Ok(false));
        };
        debug_assert!(self.cipher.is_empty(), "nothing else was received meanwhile");
        let before = std::mem::replace(&mut self.cipher, bytes);
        self.socket.ring().pool.borrow_mut().give_back(before);
        self.headroom = limits::RESEAL_HEADROOM as u32;
        if self.first_record().is_none() {
            self.leave_records();
        } else {
            self.decrypt_first()?;
        }
        Poll::Ready(Ok(true))
    }

    fn poll_shared(&mut self, context: &Context<'_>) -> Polled<bool> {
        let Some(mut bytes) = std::task::ready!(self.socket.poll_recv_shared(context))? else {
            return Poll::Ready(Ok(false));
        };
        self.drop_headroom();
        if self.cipher.is_empty() {
            let used = self.decrypt(&mut bytes)?;
            if used < bytes.len() {
                self.cipher = self.socket.ring().pool.borrow_mut().small();
                self.cipher.extend_from_slice(&bytes[used..]);
            }
        } else {
            self.cipher.extend_from_slice(&bytes);
            drop(bytes);
            self.decrypt_own()?;
        }
        Poll::Ready(Ok(true))
    }

    fn poll_own(&mut self, context: &Context<'_>) -> Polled<bool> {
        if self.tls.is_none() {
            if self.plain.capacity() == 0 && !self.socket.is_receiving_owned() {
                self.plain = self.socket.ring().pool.borrow_mut().large();
            }
            let size = std::task::ready!(self.socket.poll_recv_owned(context, &mut self.plain))?;
            return Poll::Ready(Ok(size > 0));
        }
        let size = std::task::ready!(self.poll_cipher(context))?;
        if size > 0 {
            self.decrypt_own()?;
        }
        Poll::Ready(Ok(size > 0))
    }

    fn decrypt_own(&mut self) -> io::Result<()> {
        self.drop_headroom();
        if self.plain.is_empty() && self.tls.as_ref().is_some_and(Tls::is_handed_over) {
            return self.decrypt_in_place();
        }
        let mut cipher = std::mem::take(&mut self.cipher);
        let used = self.decrypt(&mut cipher);
        if let Ok(used) = used {
            let rest = cipher.len() - used;
            cipher.copy_within(used.., 0);
            cipher.truncate(rest);
        }
        if cipher.is_empty() {
            self.socket.ring().pool.borrow_mut().give_back(cipher);
        } else {
            self.cipher = cipher;
        }
        used.map(drop)
    }

    /// Opens the first record behind the headroom; those behind it stay as they are.
    fn decrypt_first(&mut self) -> io::Result<()> {
        let Wire { tls: Some(tls), plain, cipher, out, socket, headroom, .. } = self else { return Ok(()) };
        let at = *headroom as usize;
        let (end, size) = match tls.receive_one(cipher, at, out) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(()),
            Err(error) => {
                // The peer is told.
                self.held = false;
                let _ = self.start_send();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        };
        let mut pool = socket.ring().pool.borrow_mut();
        if size > 0 {
            if plain.capacity() == 0 {
                *plain = if size <= 2048 { pool.small() } else { pool.large() };
            }
            plain.extend_from_slice(&cipher[at..at + size]);
        }
        *headroom = end as u32;
        if end == cipher.len() {
            *headroom = 0;
            pool.give_back(std::mem::take(cipher));
        }
        drop(pool);
        if !self.own_buffer && self.headroom > 0 && self.first_record().is_none() {
            self.leave_records();
        }
        Ok(())
    }

    /// What was received becomes what can be read; only the beginning of a record moves.
    fn decrypt_in_place(&mut self) -> io::Result<()> {
        let Wire { tls: Some(tls), plain, cipher, out, socket, own_buffer, .. } = self else { return Ok(()) };
        let opened = tls.receive_in_place(cipher, out);
        let Opened { used, plain: size } =
            opened.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut pool = socket.ring().pool.borrow_mut();
        if size == 0 {
            cipher.drain(..used);
            if cipher.is_empty() {
                pool.give_back(std::mem::take(cipher));
            }
            return Ok(());
        }
        if plain.capacity() > 0 {
            pool.give_back(std::mem::take(plain));
        }
        let mut rest = Vec::new();
        if used < cipher.len() {
            // One at rest must not hold the room of a transfer for the beginning of a record.
            rest = if *own_buffer { pool.large() } else { pool.small() };
            rest.extend_from_slice(&cipher[used..]);
        }
        cipher.truncate(size);
        *plain = std::mem::replace(cipher, rest);
        Ok(())
    }

    fn decrypt(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Wire { tls, plain, out, socket, .. } = self;
        let mut take = |record: &[u8]| {
            if plain.capacity() == 0 {
                let mut pool = socket.ring().pool.borrow_mut();
                *plain = if record.len() <= 2048 { pool.small() } else { pool.large() };
            }
            plain.extend_from_slice(record);
        };
        let Some(tls) = tls else {
            take(bytes);
            return Ok(bytes.len());
        };
        if out.capacity() == 0 && !tls.is_handshaken() {
            *out = socket.ring().pool.borrow_mut().small();
        }
        let used = tls.receive(bytes, out, &mut take);
        if out.is_empty() && out.capacity() > 0 {
            socket.ring().pool.borrow_mut().give_back(std::mem::take(out));
        }
        used.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    // ── passing records on ──────────────────────────────────────────────────────────────────────

    /// Whether what comes next can be passed on as records: nothing plain waits.
    pub fn passes_records(&self) -> bool {
        let goes_on = |tls: &Tls| tls.is_handed_over() && !tls.is_peer_closed();
        self.own_buffer && self.received().is_empty() && self.tls.as_ref().is_some_and(goes_on)
    }

    /// Bytes that the first record received and not opened may carry, once it is whole.
    pub fn first_record(&self) -> Option<usize> {
        reseal::first(self.cipher.get(self.headroom as usize..)?)
    }

    /// Waits for bytes and leaves them as they are, with room before them. False is the end of the stream.
    pub fn poll_records(&mut self, context: &Context<'_>) -> Polled<bool> {
        if !self.socket.is_receiving_owned() {
            self.set_headroom();
        }
        let size = std::task::ready!(self.socket.poll_recv_owned(context, &mut self.cipher))?;
        // The receive may have been under way before.
        self.set_headroom();
        Poll::Ready(Ok(size > 0))
    }

    /// Moves what there is, the beginning of a record, behind room enough for a transfer.
    fn set_headroom(&mut self) {
        if self.headroom == limits::RESEAL_HEADROOM as u32 {
            return;
        }
        let mut pool = self.socket.ring().pool.borrow_mut();
        let mut roomy = pool.roomy();
        roomy.extend_from_slice(&self.cipher[self.headroom as usize..]);
        self.headroom = limits::RESEAL_HEADROOM as u32;
        let before = std::mem::replace(&mut self.cipher, roomy);
        if before.capacity() > 0 {
            pool.give_back(before);
        }
    }

    fn drop_headroom(&mut self) {
        let headroom = self.headroom as usize;
        // It may be away with a receive; then there is nothing to drop yet, and whoever takes it asks again.
        if self.cipher.len() >= headroom {
            self.cipher.drain(..headroom);
            self.headroom = 0;
        }
    }

    /// Passes the first records received on to `to`, as far as their content is `content_max` bytes at
    /// most: in frames whose headers `header` gives. What they were received into is what is sent. Gives
    /// the bytes of content and of frames that passed, and whether the peer broke the protocol behind
    /// them; `None`: not now, they have to be read.
    ///
    /// # Errors
    /// `to` cannot seal; its connection is lost.
    pub fn pass_records(
        &mut self,
        to: &mut Wire,
        content_max: usize,
        header: impl Fn(u16) -> [u8; limits::FRAME_HEADER_SIZE],
    ) -> io::Result<Option<(usize, usize, io::Result<()>)>> {
        let Wire { tls: Some(from), cipher, headroom, out, socket, .. } = self else { return Ok(None) };
        let Some(into) = &mut to.tls else { return Ok(None) };
        let start = *headroom as usize;
        if start < limits::RESEAL_HEADROOM || cipher.len() < start {
            return Ok(None);
        }
        let (size, _) = reseal::passable(&cipher[start..], content_max);
        let range = start..start + size;
        let done = from.reseal(into, cipher, range, header, out).map_err(io::Error::other)?;
        let Some(resealed) = done else { return Ok(None) };
        let mut bytes = std::mem::take(cipher);
        if resealed.used < bytes.len() {
            let mut rest = socket.ring().pool.borrow_mut().roomy();
            rest.extend_from_slice(&bytes[resealed.used..]);
            (*cipher, *headroom) = (rest, limits::RESEAL_HEADROOM as u32);
        } else {
            *headroom = 0;
        }
        bytes.truncate(resealed.sealed);
        to.send_sealed(bytes);
        if resealed.outcome.is_err() {
            // The peer is told.
            self.held = false;
            let _ = self.start_send();
        }
        let outcome = resealed.outcome.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        Ok(Some((resealed.content, resealed.framed, outcome)))
    }

    /// As [`Wire::poll_fill`], but what records carried may stay in `pieces` of [`Wire::received`], which are
    /// then all there is: each with room around it to be sealed again.
    pub(super) fn poll_pieces(
        &mut self,
        context: &Context<'_>,
        pieces: &mut Vec<Range<usize>>,
    ) -> Polled<bool> {
        pieces.clear();
        while self.passes_records() {
            match std::task::ready!(self.poll_cipher(context))? {
                0 => return self.poll_fill(context),
                _ => self.open_spaced(pieces)?,
            }
            if !pieces.is_empty() {
                return Poll::Ready(Ok(true));
            }
            // Messages of TLS itself, or the beginning of a record.
            self.start_send()?;
        }
        self.poll_fill(context)
    }

    fn open_spaced(&mut self, pieces: &mut Vec<Range<usize>>) -> io::Result<()> {
        let Wire { tls: Some(tls), plain, cipher, out, socket, .. } = self else { return Ok(()) };
        let used = match tls.receive_spaced(cipher, pieces, out) {
            Ok(used) => used,
            Err(error) => {
                self.held = false;
                let _ = self.start_send();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        };
        let mut pool = socket.ring().pool.borrow_mut();
        let Some(last) = pieces.last() else {
            cipher.drain(..used);
            return Ok(());
        };
        let mut rest = Vec::new();
        if used < cipher.len() {
            rest = pool.large();
            rest.extend_from_slice(&cipher[used..]);
        }
        cipher.truncate(last.end + records::FOOTER);
        *plain = std::mem::replace(cipher, rest);
        Ok(())
    }

    /// Waits for ciphertext in a buffer of this wire; 0 is the end of the stream.
    fn poll_cipher(&mut self, context: &Context<'_>) -> Polled<usize> {
        if self.cipher.capacity() == 0 && !self.socket.is_receiving_owned() {
            self.cipher = self.socket.ring().pool.borrow_mut().large();
        }
        self.socket.poll_recv_owned(context, &mut self.cipher)
    }

    /// Seals `range` of `buffer` where it lies, and sends it so. False: not now, it has to be written.
    /// Nobody else may read of `buffer` what lies in `range`, in the room for a record's header before it
    /// and in that for its footer behind it.
    ///
    /// # Errors
    /// When TLS cannot send.
    pub(super) fn write_in_place(&mut self, buffer: &Rc<Lent>, range: Range<usize>) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(false) };
        let whole = range.start - records::HEADER..range.end + records::FOOTER;
        // SAFETY: the caller says so; no slice of it is kept here or there.
        let bytes = unsafe { buffer.part(whole.clone()) };
        if !tls.seal_in_place(bytes).map_err(io::Error::other)? {
            return Ok(false);
        }
        self.held = false;
        self.put_out_aside();
        let Sealed(sealed) = &mut **self.sealed.get_or_insert_default();
        match sealed.back_mut() {
            Some(Outgoing::Lent { buffer: last, range })
                if Rc::ptr_eq(last, buffer) && range.end == whole.start =>
            {
                range.end = whole.end;
            }
            _ => sealed.push_back(Outgoing::Lent { buffer: buffer.clone(), range: whole }),
        }
        Ok(true)
    }

    /// Whether what was received can be sealed where it lies: a client that reads nothing holds few buffers.
    pub(super) fn writes_in_place(&self) -> bool {
        let held = self.sealed.as_ref().map_or(0, |sealed| sealed.0.len());
        held < limits::PIECES_SHARED_MAX && self.takes_records()
    }

    /// What was written leaves before what is sealed next.
    fn put_out_aside(&mut self) {
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            self.sealed.get_or_insert_default().0.push_back(out.into());
        }
    }

    /// Whether records can be passed on to this wire.
    pub fn takes_records(&self) -> bool {
        self.tls.as_ref().is_some_and(Tls::is_handed_over)
    }

    fn send_sealed(&mut self, records: Vec<u8>) {
        if records.is_empty() {
            self.socket.ring().pool.borrow_mut().give_back(records);
            return;
        }
        self.held = false;
        self.put_out_aside();
        self.sealed.get_or_insert_default().0.push_back(records.into());
    }

    // ── writing ─────────────────────────────────────────────────────────────────────────────────

    /// Bytes written and not yet given to the kernel, and not held back either.
    pub fn unsent(&self) -> usize {
        if self.held { 0 } else { self.waiting() }
    }

    /// Bytes written and not yet given to the kernel.
    fn waiting(&self) -> usize {
        let sealed = self.sealed.iter().flat_map(|sealed| sealed.0.iter());
        self.out.len() + sealed.map(|one| one.bytes().len()).sum::<usize>()
    }

    /// What is to be sent next, if anything waits.
    fn next_out(&mut self) -> Option<Outgoing> {
        let sealed = self.sealed.as_mut().and_then(|sealed| sealed.0.pop_front());
        sealed.or_else(|| (!self.out.is_empty()).then(|| std::mem::take(&mut self.out).into()))
    }

    fn nothing_waits(&self) -> bool {
        self.out.is_empty() && self.sealed.as_ref().is_none_or(|sealed| sealed.0.is_empty())
    }

    /// Lets what was held back leave with the next send.
    pub fn release(&mut self) {
        self.held = false;
    }

    /// Whether the writer should go on: false while a send is in flight and as much again waits.
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Bytes that the writer may add before what waits is as much as one send takes.
    pub fn room(&self) -> usize {
        limits::TRANSFER_SIZE.saturating_sub(self.waiting())
    }

    /// Adds bytes to what is to be sent, encrypted where there is TLS.
    ///
    /// # Errors
    /// When TLS cannot send.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.held = false;
        if self.out.capacity() == 0 {
            let mut pool = self.socket.ring().pool.borrow_mut();
            self.out = if bytes.len() <= 1536 { pool.small() } else { pool.large() };
        } else if self.out.capacity() < limits::TRANSFER_BUFFER_SIZE && bytes.len() > 1536 {
            // A head was written; a body follows.
            let mut pool = self.socket.ring().pool.borrow_mut();
            let mut out = pool.large();
            out.extend_from_slice(&self.out);
            pool.give_back(std::mem::replace(&mut self.out, out));
        }
        match &mut self.tls {
            None => self.out.extend_from_slice(bytes),
            Some(tls) => tls.send(bytes, &mut self.out).map_err(io::Error::other)?,
        }
        Ok(())
    }

    /// Gives to the kernel what waits, unless a send is in flight.
    ///
    /// # Errors
    /// What the last send said.
    pub fn start_send(&mut self) -> io::Result<()> {
        if self.nothing_waits() || self.held {
            return Ok(());
        }
        if self.socket.is_sending() {
            self.socket.want_sent();
        } else {
            // The result of a send that ended is taken by a poll; none waits here.
            let context = Context::from_waker(std::task::Waker::noop());
            if let Poll::Ready(result) = self.socket.poll_sent(&context) {
                result?;
            }
            if let Some(next) = self.next_out() {
                self.socket.send(next);
            }
            if !self.nothing_waits() {
                self.socket.want_sent();
            }
        }
        Ok(())
    }

    /// Waits until everything written is with the kernel.
    pub fn poll_flush(&mut self, context: &Context<'_>) -> Polled<()> {
        self.held = false;
        loop {
            std::task::ready!(self.socket.poll_sent(context))?;
            let Some(next) = self.next_out() else { return Poll::Ready(Ok(())) };
            self.socket.send(next);
        }
    }

    /// Sends what can be sent without waiting for it, and asks to be woken when more can be sent of what
    /// is written. Gives whether there is room to write more.
    pub fn poll_room(&mut self, context: &Context<'_>) -> Polled<()> {
        if (self.nothing_waits() || self.held) && self.socket.is_sending() {
            // Nothing waits for its end; an error wakes whoever waits on the socket.
            self.socket.watch(context);
            return Poll::Ready(Ok(()));
        }
        match self.socket.poll_sent(context) {
            Poll::Ready(result) => {
                result?;
                if !self.held
                    && let Some(next) = self.next_out()
                {
                    self.socket.send(next);
                    self.socket.watch(context);
                    if !self.nothing_waits() {
                        self.socket.want_sent();
                    }
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending if self.has_room() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits until there is room to write more, and sends only when there is none: who has more to write
    /// in this turn asks so, and ends the turn with [`Wire::start_send`], so that all leaves together.
    pub fn poll_space(&mut self, context: &Context<'_>) -> Polled<()> {
        if self.has_room() { Poll::Ready(Ok(())) } else { self.poll_room(context) }
    }

    /// Whether everything written is with the kernel and its sends have ended.
    pub fn is_flushed(&self) -> bool {
        self.nothing_waits() && !self.socket.is_sending()
    }

    /// Whoever waits on this wire is woken, too, when the send in flight has ended.
    pub fn want_sent(&self) {
        self.socket.want_sent();
    }

    /// See [`Socket::set_patient`].
    pub fn set_patient(&self, is_patient: bool) {
        self.socket.set_patient(is_patient);
    }

    /// See [`Socket::awaits_turn`].
    pub fn awaits_turn(&self) -> bool {
        self.socket.awaits_turn()
    }

    /// Asks to be woken at whatever happens on the socket next, except a send that ends well: see
    /// [`Wire::want_sent`].
    pub fn watch(&self, context: &Context<'_>) {
        self.socket.watch(context);
    }

    /// Waits for everything written.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_flush(context)).await
    }

    /// Carries the handshake through in turns behind everybody else: see [`Socket::set_patient`], which holds
    /// afterwards, too.
    ///
    /// # Errors
    /// As [`Wire::handshake`].
    pub async fn handshake_patiently(&mut self) -> io::Result<()> {
        self.socket.set_patient(true);
        self.socket.set_laborious(true);
        let outcome = self.handshake().await;
        self.socket.set_laborious(false);
        outcome
    }

    /// Carries the handshake through.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer left; `InvalidData` with rustls's error when it broke the
    /// protocol (its alert has been sent).
    pub async fn handshake(&mut self) -> io::Result<()> {
        self.handshake_unflushed().await?;
        self.flush().await
    }

    /// Carries the handshake through, for who reads on at once. What the last message of the handshake
    /// is answered with, a ticket, is held back for what is written next if the peer has said something
    /// behind it: a send less for both.
    ///
    /// # Errors
    /// As [`Wire::handshake`].
    pub async fn handshake_unflushed(&mut self) -> io::Result<()> {
        if self.tls.is_none() {
            return Ok(());
        }
        self.decrypt(&mut [])?;
        while self.tls.as_ref().is_some_and(|tls| !tls.is_handshaken()) {
            self.start_send()?;
            match std::future::poll_fn(|context| self.poll_fill_handshake(context)).await {
                Ok(true) => {}
                Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => {
                    let _ = self.flush().await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// One receive, whether or not it brought plain bytes.
    fn poll_fill_handshake(&mut self, context: &Context<'_>) -> Polled<bool> {
        let more = self.poll_receive(context);
        if let Poll::Ready(Ok(_)) = more {
            self.held = !self.received().is_empty();
            self.start_send()?;
        }
        more
    }

    // ── a handshake whose steps somebody else times ─────────────────────────────────────────────

    /// Waits for bytes of the peer's handshake, which stay in [`Wire::heard`]. False is the end of the
    /// stream.
    pub fn poll_hear(&mut self, context: &Context<'_>) -> Polled<bool> {
        if self.socket.is_receiving_owned() {
            // It was paused.
            let size = std::task::ready!(self.socket.poll_recv_owned(context, &mut self.cipher))?;
            return Poll::Ready(Ok(size > 0));
        }
        let Some(bytes) = std::task::ready!(self.socket.poll_recv_shared(context))? else {
            return Poll::Ready(Ok(false));
        };
        if self.cipher.capacity() == 0 {
            self.cipher = self.socket.ring().pool.borrow_mut().small();
        }
        self.cipher.extend_from_slice(&bytes);
        Poll::Ready(Ok(true))
    }

    /// What was heard of the handshake and not read.
    pub fn heard(&self) -> &[u8] {
        &self.cipher
    }

    /// Drops the first `size` bytes of what was heard: they are not TLS's.
    pub fn skip_heard(&mut self, size: usize) {
        self.cipher.drain(..size);
        if self.cipher.is_empty() {
            self.socket.ring().pool.borrow_mut().give_back(std::mem::take(&mut self.cipher));
        }
    }

    /// Reads what was heard, with the arithmetic that it asks for, and starts to send what answers it. The
    /// answer to the last flight is held back as in [`Wire::handshake_unflushed`].
    ///
    /// # Errors
    /// `InvalidData` when the peer broke the protocol: the alert for it is written.
    pub fn answer_heard(&mut self) -> io::Result<()> {
        self.decrypt_own()?;
        self.held = !self.received().is_empty();
        self.start_send()
    }

    /// Tells the peer that nothing more comes, by TLS and by TCP. If it sends nothing more itself, there
    /// is nothing left to wait for, and TCP's part is done by closing.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.say_goodbye();
        std::future::poll_fn(|context| {
            self.pause();
            self.poll_flush(context)
        })
        .await?;
        self.shutdown();
        Ok(())
    }

    /// Tells the peer by TLS that nothing more comes, behind everything written. TCP's part of it is
    /// [`Wire::shutdown`].
    pub(super) fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls
            && tls.is_handshaken()
        {
            tls.close(&mut self.out);
        }
    }

    /// Ends our direction of the TCP connection, once everything has left. If the peer sends nothing more
    /// either, closing does that.
    pub(super) fn shutdown(&self) {
        if !self.read_closed {
            self.socket.shutdown();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let ring = self.socket.ring().clone();
        for sealed in self.sealed.iter_mut().flat_map(|sealed| sealed.0.drain(..)) {
            if let Outgoing::Own(buffer) = sealed {
                ring.pool.borrow_mut().give_back(buffer);
            }
        }
        let mut pool = ring.pool.borrow_mut();
        for buffer in [&mut self.plain, &mut self.cipher, &mut self.out] {
            if buffer.capacity() > 0 {
                pool.give_back(std::mem::take(buffer));
            }
        }
    }
}
