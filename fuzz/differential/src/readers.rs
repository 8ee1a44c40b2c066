//! The two others: llhttp in this process, h11 in one of its own.

use std::io::{BufReader, BufWriter, Read, Write};
use std::os::raw::{c_char, c_int};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::reading::{End, Kind, Reading};

unsafe extern "C" {
    fn differential_llhttp(
        bytes: *const u8,
        size: usize,
        is_response: c_int,
        answers_head: c_int,
        out: *mut u8,
        room: usize,
        outcome: *mut c_int,
        consumed: *mut usize,
    ) -> usize;
    fn differential_llhttp_error(outcome: c_int) -> *const c_char;
}

/// Room for the notes of one message: no generated one has so many octets and records.
const NOTES_SIZE: usize = 256 * 1024;

/// See `llhttp_reader.c`.
pub struct Llhttp {
    notes: Vec<u8>,
}

impl Llhttp {
    pub fn new() -> Llhttp {
        Llhttp { notes: vec![0; NOTES_SIZE] }
    }

    pub fn read(&mut self, kind: Kind, bytes: &[u8]) -> Reading {
        let (mut outcome, mut consumed) = (0, 0);
        // SAFETY: both buffers live through the call and are as long as is said; the shim keeps neither.
        let size = unsafe {
            differential_llhttp(
                bytes.as_ptr(),
                bytes.len(),
                (kind != Kind::Request).into(),
                (kind == Kind::ResponseToHead).into(),
                self.notes.as_mut_ptr(),
                self.notes.len(),
                &mut outcome,
                &mut consumed,
            )
        };
        let end = match outcome {
            0 => End::Complete(consumed),
            1 => End::Partial,
            // SAFETY: a static text of llhttp for each of its errors.
            _ => End::Refused(unsafe {
                std::ffi::CStr::from_ptr(differential_llhttp_error(outcome)).to_string_lossy().into_owned()
            }),
        };
        Reading::from_notes(&self.notes[..size], end)
    }
}

/// See `h11_reader.py`.
pub struct H11 {
    child: Child,
    to: Option<BufWriter<ChildStdin>>,
    from: BufReader<ChildStdout>,
}

impl H11 {
    /// Debian's Python, whose package `python3-h11` is.
    pub fn start() -> H11 {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/h11_reader.py");
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-E", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("/usr/bin/python3 can be run");
        let to = child.stdin.take().map(BufWriter::new);
        let from = BufReader::new(child.stdout.take().expect("it was asked for"));
        H11 { child, to, from }
    }

    /// Reads a batch; one reading for each.
    pub fn read(&mut self, batch: &[(Kind, &[u8])]) -> std::io::Result<Vec<Reading>> {
        let to = self.to.as_mut().expect("it is taken at the end");
        to.write_all(&(batch.len() as u32).to_le_bytes())?;
        for (kind, bytes) in batch {
            to.write_all(&(bytes.len() as u32).to_le_bytes())?;
            to.write_all(&[*kind as u8])?;
            to.write_all(bytes)?;
        }
        to.flush()?;
        batch.iter().map(|_| self.answer()).collect()
    }

    fn answer(&mut self) -> std::io::Result<Reading> {
        let mut fixed = [0; 9];
        self.from.read_exact(&mut fixed)?;
        let number = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("four octets"));
        let mut notes = vec![0; number(5) as usize];
        self.from.read_exact(&mut notes)?;
        let end = match fixed[0] {
            0 => End::Complete(number(1) as usize),
            _ => End::Partial, // Or refused, which the notes say.
        };
        Ok(Reading::from_notes(&notes, end))
    }
}

impl Drop for H11 {
    fn drop(&mut self) {
        drop(self.to.take());
        let _ = self.child.wait();
    }
}
