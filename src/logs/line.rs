//! One line of the access log, in each format. Pure: a value from outside can neither end its line nor
//! begin another field.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::limits::LOG_PATH_SIZE_MAX;
use crate::settings::LogFormat;

/// What a field says.
#[derive(Clone, Copy, Debug)]
pub enum Value<'v> {
    /// Whatever a peer may have chosen.
    Text(&'v str),
    /// A count.
    Number(u64),
    /// A length of time.
    Seconds(Duration),
}

/// A line before it is written.
#[derive(Clone, Copy, Debug)]
pub struct Line<'l> {
    /// When the request ended.
    pub time: Timestamp,
    /// Which role writes.
    pub component: &'static str,
    /// Which of its shards.
    pub shard: usize,
    /// In their order; what is not known is left out.
    pub fields: &'l [(&'static str, Option<Value<'l>>)],
}

impl Line<'_> {
    /// Appends the line, its end included.
    pub fn write(&self, out: &mut String, format: LogFormat) {
        match format {
            LogFormat::Text => {
                let _ = write!(out, "time={:.3}", self.time);
                self.pairs(out, false);
            }
            LogFormat::Json => self.json(out),
            LogFormat::CmTrace => self.cmtrace(out),
        }
        out.push('\n');
    }

    fn known(&self) -> impl Iterator<Item = (&'static str, Value<'_>)> {
        self.fields.iter().filter_map(|(name, value)| Some((*name, (*value)?)))
    }

    fn pairs(&self, out: &mut String, is_cmtrace: bool) {
        for (name, value) in self.known() {
            if !out.is_empty() && !out.ends_with('\n') {
                out.push(' ');
            }
            let _ = write!(out, "{name}=");
            match value {
                Value::Text(text) => quoted(out, text, is_cmtrace),
                Value::Number(number) => {
                    let _ = write!(out, "{number}");
                }
                Value::Seconds(time) => {
                    let _ = write!(out, "{:.6}", time.as_secs_f64());
                }
            }
        }
    }

    fn json(&self, out: &mut String) {
        let _ = write!(out, "{{\"time\":\"{:.3}\"", self.time);
        for (name, value) in self.known() {
            let _ = write!(out, ",\"{name}\":");
            match value {
                Value::Text(text) => json_text(out, text),
                Value::Number(number) => {
                    let _ = write!(out, "{number}");
                }
                Value::Seconds(time) => {
                    let _ = write!(out, "{:.6}", time.as_secs_f64());
                }
            }
        }
        out.push('}');
    }

    fn cmtrace(&self, out: &mut String) {
        self.pairs(out, true);
        let time = self.time.to_zoned(TimeZone::UTC).strftime("%m-%d-%Y %H:%M:%S%.3f+00");
        let Line { component, shard, .. } = self;
        let _ = write!(out, "~~  $$<{component}><{time}><thread={shard} (0x{shard:X})>");
    }
}

/// A text as the value of a pair: bare where it is one word, else in quotes and escaped.
fn quoted(out: &mut String, text: &str, is_cmtrace: bool) {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@%+,*()[]{}!".contains(letter);
    if !text.is_empty() && text.chars().all(is_word) {
        return out.push_str(text);
    }
    out.push('"');
    for letter in text.chars() {
        // CMTrace reads line ends and fields by signs of its own.
        let is_sign = is_cmtrace && matches!(letter, '~' | '$' | '<' | '>');
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            _ if is_sign || is_hidden(letter) => out.extend(letter.escape_unicode()),
            _ => out.push(letter),
        }
    }
    out.push('"');
}

/// A text as JSON; what hides is escaped although JSON would allow it.
fn json_text(out: &mut String, text: &str) {
    for letter in serde_json::Value::from(text).to_string().chars() {
        if is_hidden(letter) {
            // All of them are below 2^16.
            let _ = write!(out, "\\u{:04x}", u32::from(letter));
        } else {
            out.push(letter);
        }
    }
}

/// Whether a letter moves the eye instead of being seen: controls, line ends, turns of direction.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// A target, given in parts, as logs show it: without its query and without parameters of its segments,
/// which may be secrets (`;jsessionid=`), and no longer than a line can bear.
pub fn path(parts: [&[u8]; 2]) -> String {
    let mut text = String::new();
    let mut is_parameter = false;
    for octet in parts.into_iter().flatten() {
        match octet {
            b'?' => break,
            b'/' => is_parameter = false,
            _ if is_parameter => continue,
            _ => {}
        }
        if text.len() >= LOG_PATH_SIZE_MAX {
            text.push('…');
            break;
        }
        match octet {
            b';' => {
                is_parameter = true;
                text.push_str(";…");
            }
            0x21..=0x7E => text.push(char::from(*octet)),
            _ => {
                let _ = write!(text, "\\x{octet:02x}");
            }
        }
        // Some readers would take it for the start of a query.
        if text.len() >= 3 && text.as_bytes()[text.len() - 3..].eq_ignore_ascii_case(b"%3f") {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: LogFormat, text: &str) -> String {
        let time = "2026-03-05T01:02:03.456789Z".parse().expect("it is a time");
        let took = Duration::from_micros(1_234_567);
        let fields = [
            ("path", Some(Value::Text(text))),
            ("status", None),
            ("bytes_in", Some(Value::Number(17))),
            ("seconds", Some(Value::Seconds(took))),
        ];
        let line = Line { time, component: "CMG_GATEWAY", shard: 10, fields: &fields };
        let mut out = String::new();
        line.write(&mut out, format);
        out
    }

    #[test]
    fn each_format_says_the_same() {
        let rows = [
            (LogFormat::Text, "time=2026-03-05T01:02:03.456Z path=/a/b bytes_in=17 seconds=1.234567\n"),
            (
                LogFormat::Json,
                "{\"time\":\"2026-03-05T01:02:03.456Z\",\"path\":\"/a/b\",\"bytes_in\":17,\"seconds\":1.234567}\n",
            ),
            (
                LogFormat::CmTrace,
                "path=/a/b bytes_in=17 seconds=1.234567~~  $$<CMG_GATEWAY><03-05-2026 01:02:03.456+00><thread=10 (0xA)>\n",
            ),
        ];
        for (format, expected) in rows {
            assert_eq!(written(format, "/a/b"), expected);
        }
    }

    const FORGERIES: [&str; 8] = [
        "/x\ntime=2026 path=/forged",
        "/x status=200",
        "/x\" status=\"200",
        "/x\\\" status=\\\"200",
        "/x\",\"status\":200,\"y\":\"",
        "/x~~  $$<CMG_GATEWAY><03-05-2026 01:02:03.456+00><thread=1 (0x1)>",
        "/x\r\u{2028}\u{202e}\u{61c}status=200",
        "",
    ];

    #[test]
    fn no_value_forges_a_line_or_a_field() {
        for text in FORGERIES {
            for format in [LogFormat::Text, LogFormat::Json, LogFormat::CmTrace] {
                let line = written(format, text);
                let hidden = line.matches(['\n', '\r', '\u{2028}', '\u{202e}', '\u{61c}']).count();
                assert_eq!(hidden, 1, "{line:?}");
            }
            let line = written(LogFormat::Json, text);
            let value: serde_json::Value = serde_json::from_str(&line).expect("one object");
            assert_eq!(value["path"], text, "{line}");
            assert!(value.get("status").is_none(), "{line}");
            let line = written(LogFormat::Text, text);
            assert_eq!(names(&line), ["time", "path", "bytes_in", "seconds"], "{line}");
            let line = written(LogFormat::CmTrace, text);
            assert_eq!((line.matches("$$<").count(), line.matches("~~").count()), (1, 1), "{line}");
        }
    }

    /// The names of a line's pairs, read by a reader that knows quotes and backslashes.
    fn names(line: &str) -> Vec<String> {
        let (mut names, mut name, mut is_quoted, mut is_value) = (Vec::new(), String::new(), false, false);
        let mut letters = line.trim_end().chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' if is_quoted => drop(letters.next()),
                '"' => is_quoted = !is_quoted,
                ' ' if !is_quoted => is_value = false,
                '=' if !is_quoted && !is_value => {
                    is_value = true;
                    names.push(std::mem::take(&mut name));
                }
                _ if !is_value => name.push(letter),
                _ => {}
            }
        }
        names
    }

    #[test]
    fn a_path_is_shown_without_its_query_and_bounded() {
        let rows: [([&[u8]; 2], &str); 10] = [
            ([b"/a/b?token=secret", b""], "/a/b"),
            ([b"/prefix", b"/a?token=secret"], "/prefix/a"),
            ([b"/a?token", b"=secret"], "/a"),
            ([b"/a%3ftoken=secret", b""], "/a%3f"),
            ([b"/a%3", b"Ftoken=secret"], "/a%3F"),
            ([b"/a\n\x1b[31m\xff", b""], "/a\\x0a\\x1b[31m\\xff"),
            ([b"", b""], ""),
            ([b"/a;token=secret/b;x?y", b""], "/a;…/b;…"),
            ([b"/a;token", b"=secret;more=secret"], "/a;…"),
            ([b"/a;%3fb", b"/c"], "/a;…/c"),
        ];
        for (parts, expected) in rows {
            assert_eq!(path(parts), expected);
        }
        let long = path([&[b'a'; 5_000], b"b"]);
        assert_eq!(long, format!("{}…", "a".repeat(LOG_PATH_SIZE_MAX)));
    }
}
