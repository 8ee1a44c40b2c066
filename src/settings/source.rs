//! Where in a settings file a key stands, for mistakes that only a look outside can find: a file that is
//! missing, a port that is taken.
//!
//! Reading the settings is the business of the file of their name; this one only finds places again.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Report, SettingsError, SettingsErrors};

/// What a settings file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `gateway.toml`
    Gateway,
    /// `connector.toml`
    Connector,
    /// `site.toml`
    Site,
}

impl Kind {
    /// What `text` is for, by what stands in it; a file with mistakes still shows what it was meant to be.
    pub fn of(text: &str) -> Option<Kind> {
        let (document, _) = DeTable::parse_recoverable(text);
        let table = document.get_ref();
        let has = |key: &str| table.contains_key(key);
        let gateway = table.get("gateway").map(|value| value.get_ref().is_table());
        match gateway {
            _ if has("connector") => Some(Kind::Connector),
            Some(true) => Some(Kind::Gateway),
            _ if has("listener") || has("server_certificate") || has("site") => Some(Kind::Gateway),
            Some(false) => Some(Kind::Connector),
            None => {
                let keys = [
                    "code",
                    "serial",
                    "trust",
                    "revocation",
                    "management_point",
                    "software_update_point",
                    "endpoint",
                ];
                keys.into_iter().any(has).then_some(Kind::Site)
            }
        }
    }

    /// As people call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Gateway => "gateway",
            Kind::Connector => "connector",
            Kind::Site => "site",
        }
    }

    /// Refuses settings of another kind as what they are: key by key nearly all of them would be wrong.
    ///
    /// # Errors
    /// The file as a whole.
    pub fn expect(self, text: &str, file: &str) -> Result<(), SettingsErrors> {
        match Kind::of(text) {
            Some(found) if found != self => {
                let (found, expected) = (found.whose(), self.whose());
                Err(SettingsErrors(vec![Source::new(text, file).error("", found, expected)]))
            }
            _ => Ok(()),
        }
    }

    const fn whose(self) -> &'static str {
        match self {
            Kind::Gateway => "the settings of a gateway (for `cmg gateway`)",
            Kind::Connector => "the settings of a connection point (for `cmg connector`)",
            Kind::Site => "the settings of a site (which connector.site in connector.toml names)",
        }
    }
}

/// A settings file as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Source<'t> {
    file: &'t str,
    text: &'t str,
}

impl<'t> Source<'t> {
    /// The file with this text; `file` is what errors call it.
    pub fn new(text: &'t str, file: &'t str) -> Source<'t> {
        Source { file, text }
    }

    /// A mistake at `key`, dotted as in `internal.listener[1].address` (counted from 1); at the section
    /// above it where the key is not written.
    pub fn error(&self, key: &str, found: impl Into<String>, expected: impl Into<String>) -> SettingsError {
        let mut report = Report::new(self.file, self.text);
        report.add(key.to_owned(), self.place(key), found, expected);
        report.into_first().expect("one was just added")
    }

    fn place(&self, key: &str) -> usize {
        let (document, _) = DeTable::parse_recoverable(self.text);
        let mut at = 0;
        let mut table = Some(document.get_ref());
        for step in key.split('.') {
            let (name, index) = match step.split_once('[') {
                Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
                None => (step, None),
            };
            let Some(value) = table.and_then(|table| table.get(name)) else { return at };
            let item = |index: usize| value.get_ref().as_array()?.get(index.checked_sub(1)?);
            let value: &Spanned<DeValue<'_>> = index.and_then(item).unwrap_or(value);
            at = value.span().start;
            table = value.get_ref().as_table();
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "code = \"PS1\"\n[trust]\nroots = [\"a\",\n  \"b\"]\n[[x]]\ny = 1\n[[x]]\n\ny = 2\n";

    #[test]
    fn a_key_is_found_where_it_stands_or_at_its_section() {
        let rows = [
            ("code", 1),
            ("trust.roots", 3),
            ("trust.roots[1]", 3),
            ("trust.roots[2]", 4),
            ("trust.intermediates", 2),
            ("x[1].y", 6),
            ("x[2].y", 9),
            ("x[2].z", 7),
            ("x[0].y", 5),
            ("x[9].y", 5),
            ("nothing.at.all", 1),
            ("", 1),
        ];
        for (key, line) in rows {
            let error = Source::new(TEXT, "f.toml").error(key, "a", "b");
            assert_eq!((error.line, error.key.as_str()), (line, key), "{error}");
        }
    }

    #[test]
    fn a_file_is_known_by_what_stands_in_it() {
        let rows = [
            ("[gateway]\nname = 1", Some(Kind::Gateway)),
            ("[[listener]]\n[gatway]", Some(Kind::Gateway)),
            ("[connector]\n[[gateway]]", Some(Kind::Connector)),
            ("[conector]\n[[gateway]]", Some(Kind::Connector)),
            ("[[gateway]]\n[[listener]]", Some(Kind::Gateway)),
            ("serial = 1", Some(Kind::Site)),
            ("[[endpoint]]", Some(Kind::Site)),
            ("", None),
            ("x = 1", None),
            ("[[", None),
        ];
        for (text, kind) in rows {
            assert_eq!(Kind::of(text), kind, "{text}");
        }
    }

    #[test]
    fn a_file_of_another_kind_is_one_mistake() {
        let error = Kind::Gateway.expect("[connector]\n[[gateway]]\n", "f").unwrap_err().to_string();
        let expected = "f:1:1: found the settings of a connection point (for `cmg connector`), expected the \
                        settings of a gateway (for `cmg gateway`)";
        assert_eq!(error, expected);
        for text in ["[gateway]", "[[gateway]]\n[[listener]]", "[gatway]", "", "[["] {
            assert_eq!(Kind::Gateway.expect(text, "f"), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_toml_has_a_first_line() {
        assert_eq!(Source::new("[[", "f").error("a.b", "c", "d").line, 1);
    }
}
