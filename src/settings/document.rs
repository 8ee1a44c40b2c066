//! A TOML document read table by table: a key is asked for, or is a mistake.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Report, SettingsErrors};

/// What was expected instead.
pub(super) type Expected = std::borrow::Cow<'static, str>;

/// Parses `text` and reads it with `read`, which returns `None` where it reported why.
pub(super) fn read_document<T>(
    text: &str,
    file: &str,
    read: impl FnOnce(&mut Section<'_, '_>, &mut Report<'_>) -> Option<T>,
) -> Result<T, SettingsErrors> {
    let mut report = Report::new(file, text);
    let (document, faults) = DeTable::parse_recoverable(text);
    if !faults.is_empty() {
        for fault in faults {
            let at = fault.span().map_or(0, |span| span.start);
            let message = fault.message().lines().next().unwrap_or_default();
            let (found, expected) = message.split_once(", expected ").unwrap_or((message, "valid TOML"));
            report.add(String::new(), at, found, expected);
        }
        return report.conclude(None);
    }
    let mut root = Section { name: String::new(), at: 0, table: Some(document.get_ref()), known: Vec::new() };
    let settings = read(&mut root, &mut report);
    root.finish(&mut report);
    report.conclude(settings)
}

/// One table of the document, or the lack of it.
pub(super) struct Section<'d, 't> {
    name: String,
    at: usize,
    table: Option<&'d DeTable<'t>>,
    known: Vec<&'static str>,
}

impl<'d, 't> Section<'d, 't> {
    /// Whether `key` is written in it.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Dotted name of `key`.
    pub(super) fn key(&self, key: &str) -> String {
        match (self.name.as_str(), key) {
            ("", key) => key.to_owned(),
            (name, "") => name.to_owned(),
            (name, key) => format!("{name}.{key}"),
        }
    }

    /// Where `key` is written, or else its section.
    pub(super) fn place(&self, key: &str) -> usize {
        self.look(key).map_or(self.at, |value| value.span().start)
    }

    fn look(&self, key: &str) -> Option<&'d Spanned<DeValue<'t>>> {
        self.table?.get(key)
    }

    fn take(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.look(key)
    }

    /// The value of `key`, if it is there and right.
    pub(super) fn optional<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Expected>,
    ) -> Option<T> {
        let value = self.take(key)?;
        read(value.get_ref())
            .map_err(|expected| report.wrong_value(self.key(key), value.span(), expected))
            .ok()
    }

    /// The value of `key`, which must be there.
    pub(super) fn required<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Expected>,
    ) -> Option<T> {
        if !self.has(key) {
            // What a value must be is learnt by showing the reader one that never is.
            let expected = read(&DeValue::Table(DeTable::new())).err().unwrap_or_default();
            report.add(self.key(key), self.at, "nothing", expected);
        }
        self.optional(report, key, read)
    }

    /// The items of the list `key`; empty if it is not there. Wrong items are reported and left out.
    pub(super) fn list<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Expected>,
    ) -> Vec<T> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            let expected = read(&DeValue::Table(DeTable::new())).err().unwrap_or_default();
            report.wrong_value(self.key(key), value.span(), format!("a list [..] with each item {expected}"));
            return Vec::new();
        };
        let mut list = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match read(item.get_ref()) {
                Ok(item) => list.push(item),
                Err(expected) => {
                    report.wrong_value(format!("{}[{}]", self.key(key), index + 1), item.span(), expected)
                }
            }
        }
        list
    }

    /// The value of `key`, or the items of the list that stands there: at least one, where the key is there
    /// and right. Wrong items are reported and left out.
    pub(super) fn one_or_more<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Expected>,
    ) -> Vec<T> {
        let list = self.look(key).and_then(|value| value.get_ref().as_array());
        let Some(items) = list else { return self.optional(report, key, read).into_iter().collect() };
        if items.is_empty() {
            // What a value must be is learnt as above.
            let expected = read(&DeValue::Table(DeTable::new())).err().unwrap_or_default();
            report.add(
                self.key(key),
                self.place(key),
                "an empty list",
                format!("{expected}, or some of them"),
            );
        }
        self.list(report, key, read)
    }

    /// The table `[key]`; one without anything in it if it is not there.
    pub(super) fn section(&mut self, report: &mut Report<'_>, key: &'static str) -> Section<'d, 't> {
        let name = self.key(key);
        let value = self.take(key);
        let table = value.and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                report.wrong_value(name.clone(), value.span(), format!("a table [{name}]"));
            }
            table
        });
        let at = value.map_or(self.at, |value| value.span().start);
        Section { name, at, table, known: Vec::new() }
    }

    /// As [`section`](Self::section), where it is written.
    pub(super) fn optional_section(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
    ) -> Option<Section<'d, 't>> {
        if self.has(key) {
            return Some(self.section(report, key));
        }
        self.known.push(key);
        None
    }

    /// The tables `[[key]]`.
    pub(super) fn sections(&mut self, report: &mut Report<'_>, key: &'static str) -> Vec<Section<'d, 't>> {
        let name = self.key(key);
        let Some(value) = self.take(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            report.wrong_value(name.clone(), value.span(), format!("a list of tables [[{name}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let name = format!("{name}[{}]", index + 1);
            match item.get_ref().as_table() {
                Some(table) => {
                    let at = item.span().start;
                    sections.push(Section { name, at, table: Some(table), known: Vec::new() });
                }
                None => report.wrong_value(name, item.span(), "a table"),
            }
        }
        sections
    }

    /// As [`sections`](Self::sections), where at least one must be there.
    pub(super) fn some_sections(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
    ) -> Vec<Section<'d, 't>> {
        if !self.has(key) {
            let name = self.key(key);
            report.add(name.clone(), self.at, "nothing", format!("at least one [[{name}]]"));
        }
        self.sections(report, key)
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(&self, report: &mut Report<'_>) {
        let Some(table) = self.table else { return };
        for (key, _) in table {
            let written = key.get_ref().as_ref();
            if !self.known.contains(&written) {
                let expected = self.nearest(written);
                report.add(self.key(written), key.span().start, "an unknown key", expected);
            }
        }
    }

    fn nearest(&self, written: &str) -> String {
        let distance = |known: &&&str| strsim::damerau_levenshtein(written, known);
        match self.known.iter().min_by_key(distance) {
            Some(known) if distance(&known) <= 1 + known.len() / 3 => format!("\"{known}\""),
            _ => format!("one of {}", self.known.join(", ")),
        }
    }
}
