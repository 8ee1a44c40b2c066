//! The access log: one line per request, from a bounded queue for each shard to one thread that writes.
//!
//! No shard ever waits for it: what finds a queue full, a disk full or a pipe closed is counted and lost.

use std::cell::Cell;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use jiff::Timestamp;
use socket2::SockRef;

use super::line::{Line, Value};
use crate::limits::{ACCESS_LOG_QUEUE, LOG_TEXT_SIZE_MAX};
use crate::request_id::RequestId;
use crate::settings::{AccessLog as Setting, LogFormat, LogSettings};

/// Why the log cannot be written to where the settings say.
#[derive(Debug, thiserror::Error)]
#[error("log.access_log: found {found}, expected {expected}")]
pub struct OpenError {
    /// File and what the system says of it.
    pub found: String,
    /// What would do.
    pub expected: &'static str,
}

/// Opens what the settings name, and closes it again: for who looks before a start.
///
/// # Errors
/// The file cannot be opened for writing.
pub fn check(settings: &LogSettings, folder: &Path) -> Result<(), OpenError> {
    let path = match &settings.access_log {
        Setting::File(path) => Some(folder.join(path)),
        Setting::Off | Setting::Standard => None,
    };
    let was_there = path.as_ref().is_none_or(|path| fs::symlink_metadata(path).is_ok());
    Sink::open(settings, folder)?;
    if let Some(path) = path.filter(|_| !was_there) {
        // Who looks may be root; a file of root's would keep the role from its log.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// A request as the access log tells of it; texts that are empty are not told.
#[derive(Debug)]
pub struct Entry {
    /// When it ended.
    pub ended: Instant,
    /// How long it took.
    pub took: Duration,
    /// How much of that the origin had its head and not answered with one, where this process asked it.
    pub origin_took: Option<Duration>,
    /// As in the other logs.
    pub id: RequestId,
    /// Where the client comes from.
    pub peer: Option<SocketAddr>,
    /// Of the answer.
    pub status: Option<u16>,
    /// Of a refusal.
    pub reason: Option<&'static str>,
    /// Body bytes of the request.
    pub bytes_in: u64,
    /// Body bytes of the answer.
    pub bytes_out: u64,
    /// Role id.
    pub role: Option<u64>,
    /// How it ended.
    pub outcome: &'static str,
    /// Everything else.
    pub texts: Texts,
}

/// The texts of an entry, in one piece of memory.
#[derive(Debug)]
pub struct Texts {
    all: String,
    ends: [u16; TEXTS],
}

/// Which texts, in their order in [`Texts::new`].
const TEXTS: usize = 7;

impl Texts {
    /// Client, method, path, site, endpoint, connection point, origin. Each is cut to a bound.
    pub fn new(texts: [&str; TEXTS]) -> Texts {
        let size = texts.iter().map(|text| text.len().min(LOG_TEXT_SIZE_MAX)).sum();
        let mut all = String::with_capacity(size);
        let ends = texts.map(|text| {
            all.push_str(&text[..text.floor_char_boundary(LOG_TEXT_SIZE_MAX)]);
            // Seven of them fit: `limits.rs` says so.
            all.len() as u16
        });
        Texts { all, ends }
    }

    fn known(&self, which: usize) -> Option<Value<'_>> {
        let start = if which == 0 { 0 } else { usize::from(self.ends[which - 1]) };
        let text = &self.all[start..usize::from(self.ends[which])];
        (!text.is_empty()).then_some(Value::Text(text))
    }
}

impl Entry {
    fn write(&self, out: &mut String, to: &Format, shard: usize, time: Timestamp) {
        let (id, texts) = (self.id.text(), &self.texts);
        let peer = self.peer.map(|peer| peer.to_string());
        let fields = [
            ("request", Some(Value::Text(id.as_str()))),
            ("peer", peer.as_deref().map(Value::Text)),
            ("client", texts.known(0)),
            ("method", texts.known(1)),
            ("path", texts.known(2)),
            ("status", self.status.map(|status| Value::Number(status.into()))),
            ("reason", self.reason.map(Value::Text)),
            ("bytes_in", Some(Value::Number(self.bytes_in))),
            ("bytes_out", Some(Value::Number(self.bytes_out))),
            ("seconds", Some(Value::Seconds(self.took))),
            ("origin_seconds", self.origin_took.map(Value::Seconds)),
            ("site", texts.known(3)),
            ("role", self.role.map(Value::Number)),
            ("endpoint", texts.known(4)),
            ("connection_point", texts.known(5)),
            ("origin", texts.known(6)),
            ("outcome", Some(Value::Text(self.outcome))),
        ];
        Line { time, component: to.component, shard, fields: &fields }.write(out, to.format);
    }
}

/// The access log of a process.
pub struct AccessLog {
    queues: Box<[ArrayQueue<Entry>]>,
    one_in: u32,
    /// Entries that were lost, wherever.
    dropped: AtomicU64,
    /// The writer sleeps until it is called.
    is_idle: AtomicBool,
    is_closing: AtomicBool,
    writer: OnceLock<Thread>,
    /// Says that the writer has ended.
    ended: Mutex<Option<Receiver<()>>>,
}

impl AccessLog {
    /// Opens the log, if there is to be one, and starts its writer. `component` is the role's name in the
    /// format of CMTrace; a file's path starts from `folder`.
    ///
    /// # Errors
    /// The file cannot be opened for writing, or the thread not started.
    pub fn open(
        settings: &LogSettings,
        folder: &Path,
        component: &'static str,
        shards: usize,
    ) -> Result<Option<Arc<AccessLog>>, OpenError> {
        let Some(sink) = Sink::open(settings, folder)? else { return Ok(None) };
        let (tell, ended) = mpsc::channel();
        let log = Arc::new(AccessLog {
            queues: (0..shards).map(|_| ArrayQueue::new(ACCESS_LOG_QUEUE)).collect(),
            one_in: settings.access_log_one_in.max(1),
            dropped: AtomicU64::new(0),
            is_idle: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            writer: OnceLock::new(),
            ended: Mutex::new(Some(ended)),
        });
        let format = Format { format: settings.format, component };
        let writer = Writer { log: log.clone(), sink, format, lost: 0, is_failing: false };
        let started = thread::Builder::new().name("access-log".into()).spawn(move || writer.run(&tell));
        let started = started.map_err(|error| OpenError {
            found: format!("no thread for its writer: {error}"),
            expected: "a system that can start one",
        })?;
        let _ = log.writer.set(started.thread().clone());
        Ok(Some(log))
    }

    /// Entries lost so far: the queue was full, or they could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The end that one shard holds.
    pub fn queue(self: &Arc<Self>, shard: usize) -> Queue {
        Queue { log: self.clone(), shard, turn: Cell::new(0) }
    }

    /// Writes what is there and ends; waits a moment for that, and no longer.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
        self.call();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            let _ = ended.recv_timeout(CLOSE_WITHIN);
        }
    }

    fn call(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

/// Where one shard puts its entries.
pub struct Queue {
    log: Arc<AccessLog>,
    shard: usize,
    turn: Cell<u32>,
}

impl Queue {
    /// Whether this request gets a line; one that ended badly always does.
    pub fn wants(&self, is_bad: bool) -> bool {
        let turn = self.turn.get();
        self.turn.set(if turn + 1 >= self.log.one_in { 0 } else { turn + 1 });
        turn == 0 || is_bad
    }

    /// Hands an entry to the writer, or loses it.
    pub fn push(&self, entry: Entry) {
        if self.log.queues[self.shard].push(entry).is_err() {
            self.log.dropped.fetch_add(1, Ordering::Relaxed);
        }
        // Either this sees that the writer went to sleep, or the writer sees the entry.
        fence(Ordering::SeqCst);
        if self.log.is_idle.load(Ordering::Relaxed) && self.log.is_idle.swap(false, Ordering::AcqRel) {
            self.log.call();
        }
    }
}

struct Format {
    format: LogFormat,
    component: &'static str,
}

/// The thread that writes.
struct Writer {
    log: Arc<AccessLog>,
    sink: Sink,
    format: Format,
    /// Entries lost that were told already.
    lost: u64,
    is_failing: bool,
}

impl Writer {
    fn run(mut self, ended: &Sender<()>) {
        let mut told = Instant::now();
        loop {
            let is_closing = self.log.is_closing.load(Ordering::SeqCst);
            let wrote = self.write_all();
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                self.tell_lost();
            }
            match wrote {
                _ if is_closing => break,
                // A moment's entries leave in one write.
                true => thread::sleep(WRITE_EVERY),
                false => self.rest(),
            }
        }
        self.tell_lost();
        let _ = ended.send(());
    }

    fn rest(&self) {
        self.log.is_idle.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.log.queues.iter().all(ArrayQueue::is_empty) && !self.log.is_closing.load(Ordering::Relaxed) {
            thread::park_timeout(REST_FOR);
        }
        self.log.is_idle.store(false, Ordering::Relaxed);
    }

    /// Writes what lies in the queues now; whether there was anything.
    fn write_all(&mut self) -> bool {
        let (now, time) = (Instant::now(), Timestamp::now());
        let mut out = String::new();
        let mut found = 0;
        let log = self.log.clone();
        for (shard, queue) in log.queues.iter().enumerate() {
            // Shards that push all the while do not keep the writer from the others.
            for _ in 0..ACCESS_LOG_QUEUE {
                let Some(entry) = queue.pop() else { break };
                let ago = now.saturating_duration_since(entry.ended);
                entry.write(&mut out, &self.format, shard, time - ago);
                found += 1;
                if out.len() >= WRITE_SIZE {
                    self.write(&out, found);
                    (found, out) = (0, String::new());
                }
            }
        }
        if found > 0 {
            self.write(&out, found);
        }
        found > 0
    }

    /// Writes lines, or loses them; says once that they are lost, and once that they no longer are.
    fn write(&mut self, lines: &str, count: u64) {
        let written = self.sink.write(lines, self.format.format);
        match written {
            Ok(()) if std::mem::take(&mut self.is_failing) => {
                tracing::info!("the access log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.log.dropped.fetch_add(count, Ordering::Relaxed);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, "the access log cannot be written; its lines are lost until it can");
                }
            }
        }
    }

    fn tell_lost(&mut self) {
        let dropped = self.log.dropped();
        if dropped > self.lost {
            tracing::warn!(count = dropped - self.lost, "lines of the access log were lost");
            self.lost = dropped;
        }
    }
}

/// Where lines go.
enum Sink {
    Standard(io::Stdout),
    File(Rotated),
}

/// A file that is renamed and begun anew when it is long enough: at most two of them exist.
struct Rotated {
    path: PathBuf,
    file: File,
    /// Device and inode of `file`.
    identity: (u64, u64),
    size: u64,
    size_max: u64,
    /// The last write broke off in a line.
    is_torn: bool,
}

impl Sink {
    fn open(settings: &LogSettings, folder: &Path) -> Result<Option<Sink>, OpenError> {
        let path = match &settings.access_log {
            Setting::Off => return Ok(None),
            Setting::Standard => return Ok(Some(Sink::Standard(io::stdout()))),
            Setting::File(path) => folder.join(path),
        };
        let opened = Rotated::open(path.clone(), settings.access_log_size_max);
        opened.map(|file| Some(Sink::File(file))).map_err(|error| OpenError {
            found: format!("{}: {error}", path.display()),
            expected: "false, true, or a file in an existing folder that this role may write to",
        })
    }

    fn write(&mut self, lines: &str, format: LogFormat) -> io::Result<()> {
        match self {
            Sink::Standard(out) => {
                let mut out = out.lock();
                out.write_all(lines.as_bytes())?;
                out.flush()
            }
            Sink::File(file) => file.write(lines, format),
        }
    }
}

impl Rotated {
    fn open(path: PathBuf, size_max: u64) -> io::Result<Rotated> {
        let file = append_to(&path)?;
        let held = file.metadata()?;
        Ok(Rotated { path, file, identity: identity(&held), size: held.len(), size_max, is_torn: false })
    }

    fn write(&mut self, lines: &str, format: LogFormat) -> io::Result<()> {
        self.follow()?;
        if self.size > 0 && self.size.saturating_add(lines.len() as u64) > self.size_max {
            self.rotate(format)?;
        }
        if std::mem::take(&mut self.is_torn) {
            self.put(b"\n")?;
        }
        self.put(lines.as_bytes())
    }

    /// Opens the path anew when somebody removed or moved the file: lines would otherwise go where nobody
    /// looks for them, and once the file is full nothing would be left to rename.
    fn follow(&mut self) -> io::Result<()> {
        let is_gone = match fs::metadata(&self.path) {
            Ok(there) => identity(&there) != self.identity,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if is_gone {
            *self = Rotated::open(self.path.clone(), self.size_max)?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes);
        self.is_torn = written.is_err();
        // What a failed write left behind counts as well.
        self.size = match &written {
            Ok(()) => self.size + bytes.len() as u64,
            Err(_) => self.file.metadata().map_or(self.size, |held| held.len()),
        };
        written
    }

    fn rotate(&mut self, format: LogFormat) -> io::Result<()> {
        // A device is never renamed: others use it.
        if !self.file.metadata()?.is_file() {
            self.size = 0;
            return Ok(());
        }
        fs::rename(&self.path, renamed(&self.path))?;
        if format == LogFormat::CmTrace {
            // The last line as the viewers know it; without it the file is as good.
            let _ = self.put(b"<MAXIMUM LOG FILE SIZE REACHED - FILE RENAMED>\n");
        }
        *self = Rotated::open(self.path.clone(), self.size_max)?;
        Ok(())
    }
}

/// Opens without waiting: a FIFO that nobody reads is an error, and no standstill.
fn append_to(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let file = options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK).open(path)?;
    // From here on its thread may wait; what does not fit the queues meanwhile is counted.
    SockRef::from(&file).set_nonblocking(false)?;
    Ok(file)
}

fn identity(of: &Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

/// Where a full file goes: as with the original, the last letter of its extension becomes an underscore.
fn renamed(path: &Path) -> PathBuf {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("log");
    let mut letters = extension.chars();
    let last = letters.next_back();
    let stem = if last == Some('_') { extension } else { letters.as_str() };
    path.with_extension(format!("{stem}_"))
}

/// Lines of a moment are written together.
const WRITE_EVERY: Duration = Duration::from_millis(20);
/// Bytes after which lines are written although more wait.
const WRITE_SIZE: usize = 64 * 1024;
/// The writer looks again although nobody called it.
const REST_FOR: Duration = Duration::from_secs(1);
/// How often lost lines are told of.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// At the end of the process: somebody may not read the pipe that the log goes to.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(file: &str) -> LogSettings {
        LogSettings { access_log: Setting::File(file.into()), ..LogSettings::default() }
    }

    fn entry(path: &str) -> Entry {
        Entry {
            ended: Instant::now(),
            took: Duration::from_millis(7),
            origin_took: None,
            id: RequestId([0x11; 16]),
            peer: Some(([192, 0, 2, 1], 4711).into()),
            status: Some(200),
            reason: None,
            bytes_in: 1,
            bytes_out: 2,
            role: Some(5),
            outcome: "answered",
            texts: Texts::new(["CN=a, O=b", "GET", path, "PS1", "SMS_MP", "", ""]),
        }
    }

    #[test]
    fn what_was_pushed_is_in_the_file_when_the_log_is_closed() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = AccessLog::open(&settings("a.log"), folder.path(), "CMG_GATEWAY", 2).expect("it opens");
        let log = log.expect("it is on");
        let queues = [log.queue(0), log.queue(1)];
        for number in 0..500 {
            queues[number % 2].push(entry(&format!("/x/{number}")));
        }
        log.close();
        let text = fs::read_to_string(folder.path().join("a.log")).expect("a file");
        assert_eq!((text.lines().count(), log.dropped()), (500, 0));
        let rest = " request=11111111-1111-1111-1111-111111111111 peer=192.0.2.1:4711 client=\"CN=a, O=b\" \
                    method=GET path=/x/0 status=200 bytes_in=1 bytes_out=2 seconds=0.007000 site=PS1 role=5 \
                    endpoint=SMS_MP outcome=answered";
        let first = text.lines().next().expect("a line");
        assert!(first.starts_with("time=20") && first.ends_with(rest), "{first}");
    }

    #[test]
    fn entries_beyond_the_queue_are_counted_and_nobody_waits() {
        let log = AccessLog {
            queues: Box::new([ArrayQueue::new(ACCESS_LOG_QUEUE)]),
            one_in: 1,
            dropped: AtomicU64::new(0),
            is_idle: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            writer: OnceLock::new(),
            ended: Mutex::default(),
        };
        let log = Arc::new(log);
        let queue = log.queue(0);
        for _ in 0..ACCESS_LOG_QUEUE + 3 {
            queue.push(entry("/x"));
        }
        assert_eq!(log.dropped(), 3);
    }

    #[test]
    fn one_in_so_many_is_told_and_every_bad_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = LogSettings { access_log_one_in: 4, ..settings("a.log") };
        let log = AccessLog::open(&settings, folder.path(), "CMG_GATEWAY", 1).expect("it opens");
        let queue = log.as_ref().expect("it is on").queue(0);
        assert_eq!((0..100).filter(|_| queue.wants(false)).count(), 25);
        assert!((0..100).all(|_| queue.wants(true)));
    }

    #[test]
    fn a_full_file_is_renamed_and_at_most_two_exist() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = Rotated::open(folder.path().join("a.log"), 1_000).expect("it opens");
        for number in 0..100 {
            file.write(&format!("{number:099}\n"), LogFormat::CmTrace).expect("it is written");
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        assert_eq!(names, ["a.lo_", "a.log"]);
        let old = fs::read_to_string(folder.path().join("a.lo_")).expect("a file");
        assert!(old.ends_with("<MAXIMUM LOG FILE SIZE REACHED - FILE RENAMED>\n"), "{old}");
        let new = fs::read_to_string(folder.path().join("a.log")).expect("a file");
        assert!(new.ends_with("99\n") && new.len() <= 1_000 && old.len() <= 1_100, "{}", new.len());
        use std::os::unix::fs::PermissionsExt;
        let mode = file.file.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn a_file_that_somebody_moved_away_is_begun_anew_when_it_is_full() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.log");
        let mut file = Rotated::open(path.clone(), 100).expect("it opens");
        file.write(&format!("{:099}\n", 1), LogFormat::Text).expect("it is written");
        fs::rename(&path, folder.path().join("a.log.1")).expect("another program moves it");
        file.write("2\n", LogFormat::Text).expect("it is written");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "2\n");
    }

    #[test]
    fn a_full_file_has_one_other_name() {
        for (path, expected) in [
            ("/a/x.log", "/a/x.lo_"),
            ("x.txt", "x.tx_"),
            ("x", "x.lo_"),
            ("x.lo_", "x.lo__"),
            ("x.y.log", "x.y.lo_"),
            ("x.l", "x._"),
        ] {
            assert_eq!(renamed(Path::new(path)), Path::new(expected));
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_told_with_what_would_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = check(&settings("no/such/folder/a.log"), folder.path()).expect_err("no folder");
        assert!(error.found.contains("no/such/folder/a.log: No such file"), "{error}");
        assert!(error.to_string().starts_with("log.access_log: found "), "{error}");
        assert!(check(&LogSettings::default(), folder.path()).is_ok());
    }

    #[test]
    fn a_log_that_was_removed_or_moved_is_begun_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.log");
        let mut file = Rotated::open(path.clone(), 100).expect("it opens");
        let mut write = |line: &str| file.write(line, LogFormat::Text);
        write("one\n").expect("it is written");
        fs::remove_file(&path).expect("it is removed");
        write("two\n").expect("it is written");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "two\n");
        let moved = folder.path().join("moved");
        fs::rename(&path, &moved).expect("it is moved");
        write(&"x".repeat(99)).expect("it is written");
        assert_eq!(fs::read_to_string(&moved).expect("a file"), "two\n");
        // Also when that happens to a full one, and when something else took its place for a while.
        fs::remove_file(&path).expect("it is removed");
        fs::create_dir(&path).expect("a folder");
        write("lost\n").expect_err("it is a folder");
        fs::remove_dir(&path).expect("it is removed");
        write("three\n").expect("it is written");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "three\n");
    }

    #[test]
    fn a_fifo_that_nobody_reads_holds_nobody_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        let error = check(&settings("fifo"), folder.path()).expect_err("nobody reads");
        assert!(error.found.contains("fifo: "), "{error}");
        let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("a reader");
        let mut file = Rotated::open(path, 10).expect("somebody reads");
        for _ in 0..3 {
            file.write("a line\n", LogFormat::Text).expect("it is written");
        }
        let mut text = String::new();
        drop(file);
        io::Read::read_to_string(&mut &reader, &mut text).expect("it is text");
        assert_eq!(text, "a line\n".repeat(3));
    }

    #[test]
    fn who_only_looks_leaves_no_file_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        check(&settings("a.log"), folder.path()).expect("it could be opened");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        fs::write(folder.path().join("a.log"), "kept").expect("it is written");
        check(&settings("a.log"), folder.path()).expect("it can be opened");
        assert_eq!(fs::read_to_string(folder.path().join("a.log")).expect("a file"), "kept");
    }

    #[test]
    fn a_disk_that_is_full_loses_lines_and_nothing_else() {
        let log = AccessLog::open(&settings("/dev/full"), Path::new("/"), "CMG_GATEWAY", 1);
        let log = log.expect("it opens").expect("it is on");
        let queue = log.queue(0);
        for _ in 0..10 {
            queue.push(entry("/x"));
        }
        log.close();
        assert_eq!(log.dropped(), 10);
    }
}
