//! Mistakes in a settings file, each told so that it can be mended without looking anything up.

use std::fmt;
use std::ops::Range;

/// Octets of the file that a message shows at most.
const FOUND_SIZE_MAX: usize = 60;
/// Mistakes that are told of one file: nobody reads more, and finding the line of each costs a look at
/// the whole text.
const ERROR_COUNT_MAX: usize = 100;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The file's name as given.
    pub file: String,
    /// From 1; 0 when it is the file as a whole.
    pub line: usize,
    /// From 1, in characters; 0 as above.
    pub column: usize,
    /// Dotted, as in `internal.listener[1].address`; empty where the text is not TOML.
    pub key: String,
    /// What stands there.
    pub found: String,
    /// What should.
    pub expected: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SettingsError { file, line, column, key, found, expected } = self;
        match line {
            0 => write!(f, "{file}: ")?,
            _ => write!(f, "{file}:{line}:{column}: ")?,
        }
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        write!(f, "found {found}, expected {expected}")
    }
}

/// All mistakes of one file in the order of its lines; at least one. Displays one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsErrors(pub Vec<SettingsError>);

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsErrors {}

/// Collects mistakes while a file is read.
pub(super) struct Report<'t> {
    file: &'t str,
    text: &'t str,
    errors: Vec<SettingsError>,
    has_more: bool,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Report<'t> {
        Report { file, text, errors: Vec::new(), has_more: false }
    }

    /// The value there is not what was expected.
    pub(super) fn wrong_value(&mut self, key: String, span: Range<usize>, expected: impl Into<String>) {
        let found = shorten(self.text.get(span.clone()).unwrap_or_default());
        self.add(key, span.start, found, expected.into());
    }

    /// Anything else.
    pub(super) fn add(
        &mut self,
        key: String,
        at: usize,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        if self.errors.len() == ERROR_COUNT_MAX {
            self.has_more = true;
            return;
        }
        let (line, column) = position(self.text, at);
        let (file, found, expected) = (self.file.to_owned(), found.into(), expected.into());
        self.errors.push(SettingsError { file, line, column, key, found, expected });
    }

    /// The mistake that was added first.
    pub(super) fn into_first(self) -> Option<SettingsError> {
        self.errors.into_iter().next()
    }

    /// The settings, if nothing was wrong.
    pub(super) fn conclude<T>(mut self, settings: Option<T>) -> Result<T, SettingsErrors> {
        match settings {
            Some(settings) if self.errors.is_empty() => Ok(settings),
            _ => {
                debug_assert!(!self.errors.is_empty(), "settings are withheld for a reason");
                self.errors.sort_by_key(|error| (error.line, error.column));
                let last = self.errors.last().filter(|_| self.has_more).cloned();
                self.errors.extend(last.map(|last| SettingsError {
                    key: String::new(),
                    found: "more mistakes".to_owned(),
                    expected: "those above mended first".to_owned(),
                    ..last
                }));
                Err(SettingsErrors(self.errors))
            }
        }
    }
}

fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn shorten(found: &str) -> String {
    let first = found.lines().next().unwrap_or_default();
    match first.char_indices().nth(FOUND_SIZE_MAX) {
        Some((end, _)) => format!("{}...", &first[..end]),
        None if first.len() < found.len() => format!("{first} ..."),
        None => first.to_owned(),
    }
}
