//! The log of a role: one line an event, to standard error, where systemd and containers take it up.
//!
//! Whoever logs never waits: lines go to a bounded queue, and a thread of their own writes them. When
//! standard error stands still, lines are left out and counted, and the log says so as soon as it moves
//! again. (tracing-appender does the first half; its guard prints to standard output at the end of a
//! process whose queue is full, and waits for ever where both are the same pipe.)
//!
//! What others chose – names, paths, causes – can forge no line: control characters in values are written
//! as escapes, whatever the format.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use cmg::admin::{Log, set_log};
use cmg::limits;
use cmg::settings::{LogFormat, LogSettings};
use crossbeam::channel::{Receiver, Sender, bounded};
use jiff::Timestamp;
use tracing::field::Field;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as lines, reload};

use super::Failure;

/// Holds the log open. When it goes, what still waits is written, as far as somebody reads.
#[must_use]
pub struct LogGuard {
    queue: Sender<Message>,
}

/// Starts logging for this process; `component` names the role in the log. `RUST_LOG` goes before the
/// settings, for one look without editing.
pub fn start(component: &'static str, settings: &LogSettings) -> Result<LogGuard, Failure> {
    let broken = |error: &dyn fmt::Display| Failure::Broken(format!("the log cannot be started: {error}"));
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(settings.level.as_str()));
    let (filter, handle) = reload::Layer::new(filter);
    let (queue, waiting) = bounded(limits::LOG_LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let lines = Lines { queue: queue.clone(), dropped: dropped.clone() };
    let format = settings.format;
    let writing = Writing { waiting, dropped: dropped.clone(), said: 0, format, component };
    thread::Builder::new()
        .name("log".into())
        .spawn(move || writing.run(io::stderr()))
        .map_err(|error| broken(&error))?;
    let layer = layer(format, component, io::stderr().is_terminal(), lines);
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(|error| broken(&error))?;
    set_log(Arc::new(RoleLog { handle, dropped }));
    log_panics();
    Ok(LogGuard { queue })
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let until = Instant::now() + limits::LOG_FLUSH_WITHIN;
        let (done, ended) = bounded(1);
        if self.queue.send_deadline(Message::End(done), until).is_ok() {
            let _ = ended.recv_deadline(until);
        }
    }
}

/// A panic that is caught is a line like any other; the standard hook would write past the queue, and
/// wait with it. Whoever asks for backtraces gets it besides.
fn log_panics() {
    let standard = panic::take_hook();
    let wants_backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|wanted| wanted != "0");
    panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no text");
        tracing::error!(place, text, "panic; this is a bug of cmg");
        if wants_backtrace {
            standard(panic);
        }
    }));
}

struct RoleLog {
    handle: reload::Handle<EnvFilter, Registry>,
    dropped: Arc<AtomicU64>,
}

impl Log for RoleLog {
    fn filter(&self) -> String {
        self.handle.with_current(ToString::to_string).unwrap_or_default()
    }

    fn set_filter(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        self.handle.reload(filter).map_err(|error| error.to_string())
    }

    fn lines_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

// ── the queue and its thread ────────────────────────────────────────────────────────────────────

enum Message {
    Line(Vec<u8>),
    /// Write what came before, then say so here.
    End(Sender<()>),
}

/// Where events are written to: the near end of the queue.
#[derive(Clone)]
struct Lines {
    queue: Sender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Write for Lines {
    /// An event is written by one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

struct Writing {
    waiting: Receiver<Message>,
    dropped: Arc<AtomicU64>,
    /// Of those dropped, what the log has told.
    said: u64,
    format: LogFormat,
    component: &'static str,
}

impl Writing {
    /// Lines that wait go out together: a flood costs few system calls.
    fn run(mut self, mut out: impl Write) {
        let mut batch = Vec::new();
        while let Ok(first) = self.waiting.recv() {
            let mut next = Some(first);
            while let Some(Message::Line(line)) = next {
                batch.extend_from_slice(&line);
                let is_full = batch.len() >= limits::LOG_WRITE_SIZE;
                next = if is_full { None } else { self.waiting.try_recv().ok() };
            }
            self.say_dropped(&mut batch);
            // Nobody is left to tell when this fails.
            let _ = out.write_all(&batch).and_then(|()| out.flush());
            batch.clear();
            if let Some(Message::End(done)) = next {
                let _ = done.send(());
                return;
            }
        }
    }

    /// Lines are left out only while the queue is full, so there is always a next batch to say it in.
    fn say_dropped(&mut self, batch: &mut Vec<u8>) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.said {
            let count = dropped - self.said;
            self.said = dropped;
            batch.extend_from_slice(dropped_line(self.format, self.component, count).as_bytes());
        }
    }
}

/// As an event would be written; it cannot be one, for its turn would come behind all that wait.
fn dropped_line(format: LogFormat, component: &str, count: u64) -> String {
    let text = "log lines left out: standard error stood still";
    let now = Timestamp::now();
    match format {
        LogFormat::Text => format!("{now:.6}  WARN cmg: {text} count={count}\n"),
        LogFormat::Json => {
            let now = format!("{now:.6}");
            let line = serde_json::json!(
                { "timestamp": now, "level": "WARN", "message": text, "count": count, "target": "cmg" }
            );
            format!("{line}\n")
        }
        LogFormat::CmTrace => cmtrace_line(Level::WARN, &format!("{text} count={count}"), component),
    }
}

// ── how a line is written ───────────────────────────────────────────────────────────────────────

fn layer<S>(
    format: LogFormat,
    component: &'static str,
    is_terminal: bool,
    to: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let layer = lines::layer().with_writer(to).log_internal_errors(false);
    match format {
        LogFormat::Text => layer.with_ansi(is_terminal).fmt_fields(fields()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::CmTrace => {
            layer.with_ansi(false).fmt_fields(fields()).event_format(CmTrace { component }).boxed()
        }
    }
}

/// `message name=value name=value`, values escaped.
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    format::debug_fn(|writer, field: &Field, value| {
        if field.name() != "message" {
            write!(writer, "{field}=")?;
        }
        let mut escaped = Escaped { to: writer, left: limits::LOG_VALUE_SIZE_MAX };
        let is_whole = write!(escaped, "{value:?}").is_ok();
        if is_whole { Ok(()) } else { writer.write_char('…') }
    })
    .delimited(" ")
}

/// Writes text so that it stays on its line and shows what it is; what is too long is cut.
struct Escaped<'a, W> {
    to: &'a mut W,
    left: usize,
}

impl<W: fmt::Write> fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for sign in text.chars() {
            let size = sign.len_utf8();
            if size > self.left {
                // Ends the value, not the line: see `fields`.
                return Err(fmt::Error);
            }
            self.left -= size;
            if turns_lines(sign) {
                write!(self.to, "{}", sign.escape_default())?;
            } else {
                self.to.write_char(sign)?;
            }
        }
        Ok(())
    }
}

/// Control characters, Unicode's line ends, and those that change the direction of what follows.
fn turns_lines(sign: char) -> bool {
    sign.is_control()
        || matches!(sign, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// One line as the original's server logs have it, for the viewers made for them.
struct CmTrace {
    component: &'static str,
}

impl<S, N> FormatEvent<S, N> for CmTrace
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        writer.write_str(&cmtrace_line(*event.metadata().level(), &text, self.component))
    }
}

/// There is no field for the level: viewers colour a line by the words in it.
fn cmtrace_line(level: Level, text: &str, component: &str) -> String {
    let word = match level {
        Level::ERROR => "ERROR: ",
        Level::WARN => "WARNING: ",
        Level::INFO | Level::DEBUG | Level::TRACE => "",
    };
    // What ends a message, or breaks its line, in a viewer's eyes must not come from within.
    let text = text.replace("~~", "~\\u{7e}").replace("$$<", "$\\u{24}<");
    let now = Timestamp::now().strftime("%m-%d-%Y %H:%M:%S.%3f+00");
    let thread = thread_id();
    format!("{word}{text}~~  $$<{component}><{now}><thread={thread} (0x{thread:X})>\n")
}

fn thread_id() -> libc::pid_t {
    thread_local! {
        // SAFETY: takes nothing, touches no memory.
        static ID: libc::pid_t = unsafe { libc::gettid() };
    }
    ID.try_with(|id| *id).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn logged(format: LogFormat, what: impl FnOnce()) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        let subscriber =
            tracing_subscriber::registry().with(layer(format, "CMG_TEST", false, move || to.clone()));
        tracing::subscriber::with_default(subscriber, what);
        kept.text()
    }

    const HOSTILE: &str = "/a\r\n2026-01-01T00:00:00Z ERROR forged\x1b[31m\u{85}\u{2028}\u{202e}~~  $$<X><y>";

    #[test]
    fn a_hostile_value_stays_on_its_line_in_every_format() {
        for format in [LogFormat::Text, LogFormat::Json, LogFormat::CmTrace] {
            let text = logged(format, || {
                tracing::info!(path = HOSTILE, cause = %HOSTILE, other = ?HOSTILE, "said: {HOSTILE}");
            });
            assert_eq!(text.lines().count(), 1, "{format:?}: {text}");
            assert!(text.ends_with('\n') && text.contains("forged"), "{format:?}: {text}");
            if format == LogFormat::Json {
                let line: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(line["path"], HOSTILE, "nothing is lost");
            } else {
                assert!(!text.trim_end().chars().any(turns_lines), "{format:?}: {text:?}");
            }
        }
    }

    #[test]
    fn a_line_of_text_has_message_and_fields_in_their_order() {
        let text = logged(LogFormat::Text, || tracing::warn!(b = 1, a = "x y", c = %"z", "told {}", 7));
        let rest = text.split_once("WARN ").unwrap().1;
        assert!(rest.ends_with("tests: told 7 b=1 a=\"x y\" c=z\n"), "{text}");
    }

    #[test]
    fn a_line_for_the_old_viewers_has_their_form() {
        for (level, word) in [("error", "ERROR: "), ("warn", "WARNING: "), ("info", ""), ("debug", "")] {
            let text = logged(LogFormat::CmTrace, || match level {
                "error" => tracing::error!(site = "PS1", "it broke"),
                "warn" => tracing::warn!(site = "PS1", "it broke"),
                "info" => tracing::info!(site = "PS1", "it broke"),
                _ => tracing::debug!(site = "PS1", "it broke"),
            });
            let rest =
                text.strip_prefix(&format!("{word}it broke site=\"PS1\"~~  $$<CMG_TEST><")).expect(&text);
            let (time, thread) = rest.split_once("><").unwrap();
            let shape: String =
                time.chars().map(|sign| if sign.is_ascii_digit() { '9' } else { sign }).collect();
            assert_eq!(shape, "99-99-9999 99:99:99.999+99", "{text}");
            assert!(time.ends_with("+00"));
            let id = thread_id();
            assert_eq!(thread, format!("thread={id} (0x{id:X})>\n"));
        }
    }

    #[test]
    fn only_the_end_of_a_message_looks_like_one() {
        let text = logged(LogFormat::CmTrace, || tracing::info!("{HOSTILE}"));
        assert_eq!((text.matches("$$<").count(), text.matches("~~").count()), (1, 1), "{text}");
    }

    #[test]
    fn a_value_is_cut_at_its_bound() {
        let long = "ä".repeat(limits::LOG_VALUE_SIZE_MAX);
        let text = logged(LogFormat::Text, || tracing::info!(a = %long, b = 1, "x"));
        assert!(text.len() < limits::LOG_VALUE_SIZE_MAX + 200, "{}", text.len());
        assert!(text.ends_with("ä… b=1\n"), "{text}");
    }

    /// Standard error that nobody reads, until it is opened.
    struct Gate {
        closed: Arc<Mutex<()>>,
        out: Kept,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.closed.lock().unwrap();
            self.out.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_takes_are_counted_and_told_when_it_moves_again() {
        for format in [LogFormat::Text, LogFormat::Json, LogFormat::CmTrace] {
            let (queue, waiting) = bounded(8);
            let dropped = Arc::new(AtomicU64::new(0));
            let mut lines = Lines { queue: queue.clone(), dropped: dropped.clone() };
            let (closed, out) = (Arc::new(Mutex::new(())), Kept::default());
            let shut = closed.lock().unwrap();
            let gate = Gate { closed: closed.clone(), out: out.clone() };
            let writing = Writing { waiting, dropped: dropped.clone(), said: 0, format, component: "T" };
            let thread = thread::spawn(move || writing.run(gate));
            // Never waits: this thread itself holds the gate shut.
            for number in 0..100 {
                lines.write_all(format!("line {number}\n").as_bytes()).unwrap();
            }
            let lost = dropped.load(Ordering::Relaxed);
            assert!((84..=92).contains(&lost), "{lost}");
            drop(shut);
            drop(LogGuard { queue });
            thread.join().unwrap();
            let text = out.text();
            assert_eq!(text.lines().filter(|line| line.starts_with("line ")).count() as u64, 100 - lost);
            let said = match format {
                LogFormat::Json => format!("\"count\":{lost}"),
                LogFormat::Text | LogFormat::CmTrace => format!("count={lost}"),
            };
            assert!(text.contains(&said), "{lost}: {text}");
        }
    }

    #[test]
    fn the_end_waits_for_a_reader_only_so_long() {
        let (queue, waiting) = bounded(1);
        let (closed, out) = (Arc::new(Mutex::new(())), Kept::default());
        let shut = closed.lock().unwrap();
        let gate = Gate { closed: closed.clone(), out };
        let dropped = Arc::new(AtomicU64::new(0));
        let mut lines = Lines { queue: queue.clone(), dropped: dropped.clone() };
        let writing = Writing { waiting, dropped, said: 0, format: LogFormat::Text, component: "T" };
        let thread = thread::spawn(move || writing.run(gate));
        for _ in 0..10 {
            lines.write_all(b"x\n").unwrap();
        }
        // Returns, although nothing can be written.
        drop(LogGuard { queue });
        drop((shut, lines));
        thread.join().unwrap();
    }
}
