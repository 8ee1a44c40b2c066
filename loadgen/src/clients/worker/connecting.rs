//! How connections begin: their sockets, their sources, and what a ready one means.

use super::super::client::{BACKOFF_MIN, State};
use super::super::session::Session;
use super::super::work::Stand;
use super::ending::Cause;
use super::{Timer, Worker};
use crate::clients::shared::Phase;
use crate::ring::{Flight, Operation};
use socket2::{Domain, Protocol, Socket, Type};
use std::cmp::Reverse;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Instant;

impl Worker<'_> {
    pub fn connect_waiting(&mut self, now: Instant) {
        while self.connecting < self.plan.connecting_max {
            let Some(key) = self.to_connect.pop_front() else { return };
            if self.clients[key as usize].state == State::Waiting {
                self.connect(key, now);
            }
        }
    }

    /// Whether the requests that are left are but one for each connection that is being made anew: one more would be made
    /// and ask nothing.
    fn is_spoken_for(&self) -> bool {
        let left = self.pool.filter(|_| self.starts.is_none() && !self.plan.is_handshakes_only());
        self.phase != Phase::Connecting && left.is_some_and(|left| left <= u64::from(self.connecting))
    }

    pub fn connect(&mut self, key: u32, now: Instant) {
        if !self.has_work(key) || self.is_spoken_for() {
            return self.retire(key);
        }
        if let Some(script) = self.clients[key as usize].life.script() {
            match script.look(&mut self.next_id, now) {
                Stand::Ready => {}
                Stand::Until(at) | Stand::Away(at) => return self.start_at(key, at),
                Stand::Done => return self.retire(key),
            }
        }
        let Some(slot) = self.slots.pop() else {
            // Every client has a slot of its own and some are spare, so that one is always back soon.
            return self.start_at(key, now + BACKOFF_MIN);
        };
        let number = key as usize * usize::from(self.plan.threads) + usize::from(self.index);
        if self.plan.is_handshakes_only() {
            self.take_work(key, now);
        }
        let client = &mut self.clients[key as usize];
        client.begin(slot, now);
        self.connecting += 1;
        let target = self.plan.targets[usize::from(client.target)];
        let made = self.socket(number, target).and_then(|socket| self.ring.place(slot, socket.into()));
        let client = &mut self.clients[key as usize];
        let session =
            self.identities.map(|identities| identities.connect(number, &mut client.memory)).transpose();
        match (made, session) {
            (Ok(()), Ok(connection)) => {
                client.session = Session::new(connection);
                client.receive = Flight::Idle;
                client.send = Flight::Armed;
                let tag = client.tag(key, Operation::Connect);
                self.ring.connect(slot, &self.targets[usize::from(client.target)], tag);
            }
            (Err(error), _) => {
                self.remember(|| format!("socket: {error}"));
                self.lose(key, Cause::Failed, now);
            }
            (Ok(()), Err(error)) => {
                self.remember(|| error);
                self.lose(key, Cause::Tls, now);
            }
        }
    }

    /// Connects the client at `at`.
    pub fn start_at(&mut self, key: u32, at: Instant) {
        self.timers.push(Reverse((at, key, self.clients[key as usize].generation, Timer::Start)));
    }

    pub fn socket(&self, number: usize, target: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(size) = self.plan.receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if !self.plan.sources.is_empty() {
            let source = self.plan.sources[number % self.plan.sources.len()];
            choose_port_late(&socket)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        if let Some(ports) = self.plan.ports {
            let (first, last) = ports.slice(number / self.plan.sources.len().max(1));
            narrow_ports(&socket, first, last)?;
        }
        Ok(socket)
    }

    pub fn connected(&mut self, key: u32, result: i32, now: Instant) {
        let client = &mut self.clients[key as usize];
        client.send = Flight::Idle;
        if client.state != State::Connecting {
            return self.settle(key);
        }
        if result < 0 {
            let text = format!("connect: {}", io::Error::from_raw_os_error(-result));
            self.remember(|| text.clone());
            self.why = text.into();
            return self.lose(key, Cause::Failed, now);
        }
        client.state = State::Shaking;
        client.last_traffic = now;
        self.open_bytes(key, None, now);
    }

    pub fn ready(&mut self, key: u32, now: Instant) {
        self.connecting -= 1;
        self.open += 1;
        let client = &mut self.clients[key as usize];
        client.state = State::Open;
        self.tally.connected(now - client.began);
        self.tally.resumed += u64::from(client.session.is_resumed());
        if client.ask_at > now {
            self.timers.push(Reverse((client.ask_at, key, client.generation, Timer::Ask)));
        }
        self.arrive(key);
        self.arm(key);
        if self.plan.is_handshakes_only() {
            self.leave(key, now);
        }
    }

    pub fn arrive(&mut self, key: u32) {
        let client = &mut self.clients[key as usize];
        self.arrived += u64::from(!client.has_arrived);
        client.has_arrived = true;
    }
}

/// Chooses the source port when connecting, by the whole address pair: one port then serves many destinations.
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `IP_LOCAL_PORT_RANGE` of Linux 6.3: the first port below, the last above.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Has the kernel choose the source port between the two. An older kernel chooses among all, which only takes longer.
fn narrow_ports(socket: &Socket, first: u16, last: u16) -> io::Result<()> {
    let range = u32::from(last) << 16 | u32::from(first);
    // SAFETY: the value is a u32 that lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const range).cast(),
            size_of_val(&range) as libc::socklen_t,
        )
    };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        error => Err(error),
    }
}
