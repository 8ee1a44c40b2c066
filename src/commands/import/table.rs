//! From the bytes of an exported table to rows, whatever tool wrote it.
//!
//! Spreadsheets and consoles save as UTF-8 with or without a mark, or UTF-16; separate by comma, semicolon
//! or tab; and put a line of their own before the header (`sep=;`, `#TYPE ...`).

use super::Note;

/// One routing, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// From 1.
    pub line: u64,
    pub external: String,
    /// Empty where there is no such column.
    pub endpoint: String,
    pub internal: String,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    pub rows: Vec<Row>,
}

/// Spellings of the headers, letters and digits only.
const EXTERNAL: &[&str] = &[
    "externalurl",
    "external",
    "externaluri",
    "externalpath",
    "externaladdress",
    "proxyurl",
    "cmgurl",
    "publicurl",
];
const ENDPOINT: &[&str] =
    &["endpointname", "endpoint", "name", "publishingendpoint", "service", "servicename"];
const INTERNAL: &[&str] = &[
    "internalurl",
    "internal",
    "internaluri",
    "internaladdress",
    "targeturl",
    "target",
    "originurl",
    "origin",
];

/// The text of the file.
///
/// # Errors
/// The first line that is not text.
pub fn decode(bytes: &[u8]) -> Result<String, Note> {
    let why = "expected text in UTF-8 or UTF-16: save the table as one of them";
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks(2).map(|pair| unit([pair[0], *pair.get(1).unwrap_or(&0)]));
        let text: Result<String, _> = char::decode_utf16(units).collect();
        text.map_err(|_| Note::new(1, "half a UTF-16 character", why))
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        // Without a mark: the text begins with a letter, a quote or a slash.
        [first, 0, ..] if first.is_ascii() && *first != 0 => wide(bytes, u16::from_le_bytes),
        _ => {
            let rest = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            str::from_utf8(rest).map(str::to_owned).map_err(|error| {
                let before = &rest[..error.valid_up_to()];
                let line = before.iter().filter(|octet| **octet == b'\n').count() as u64 + 1;
                Note::new(line, "bytes that are not UTF-8", why)
            })
        }
    }
}

/// The rows of the table.
///
/// # Errors
/// It has no rows, or a header that lacks a column.
pub fn read(text: &str) -> Result<Table, Note> {
    let (separator, skipped) = separator(text);
    let body = text.splitn(skipped as usize + 1, '\n').last().unwrap_or_default();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator)
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .from_reader(body.as_bytes());
    let mut records = Vec::new();
    let mut lines = Lines { text: body, at: 0, line: skipped + 1 };
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = lines.of(error.position());
            Note::new(line, error, "expected a table with separated columns")
        })?;
        records.push((lines.of(record.position()), record));
    }
    records.retain(|(_, record)| !record.iter().all(str::is_empty));
    let Some((line, first)) = records.first() else {
        return Err(Note::new(1, "no rows", "expected a table of proxy routings"));
    };
    let (columns, data) = match header(first, *line)? {
        Some(columns) => (columns, &records[1..]),
        // Without a header: in this order.
        None if first.len() == 2 => (Columns { external: 0, endpoint: None, internal: 1 }, &records[..]),
        None => (Columns { external: 0, endpoint: Some(1), internal: 2 }, &records[..]),
    };
    let rows: Vec<Row> = data.iter().map(|(line, record)| columns.row(*line, record)).collect();
    if rows.is_empty() {
        return Err(Note::new(*line, "a header and no rows", "expected a row for each proxy routing"));
    }
    Ok(Table { rows })
}

/// Counts lines from record to record. A record's own count will not do: it is that of the line break
/// before, or of blank lines.
struct Lines<'t> {
    text: &'t str,
    at: usize,
    line: u64,
}

impl Lines<'_> {
    fn of(&mut self, position: Option<&csv::Position>) -> u64 {
        let text = self.text.as_bytes();
        let begin = position.and_then(|position| usize::try_from(position.byte()).ok()).unwrap_or(self.at);
        let blank = text.get(begin..).unwrap_or_default();
        let begin = begin + blank.iter().take_while(|octet| octet.is_ascii_whitespace()).count();
        let between = text.get(self.at..begin).unwrap_or_default();
        self.line += between.iter().filter(|octet| **octet == b'\n').count() as u64;
        self.at = self.at.max(begin);
        self.line
    }
}

struct Columns {
    external: usize,
    endpoint: Option<usize>,
    internal: usize,
}

impl Columns {
    fn row(&self, line: u64, record: &csv::StringRecord) -> Row {
        let cell = |column: usize| record.get(column).unwrap_or_default().to_owned();
        Row {
            line,
            external: cell(self.external),
            endpoint: self.endpoint.map(cell).unwrap_or_default(),
            internal: cell(self.internal),
        }
    }
}

/// The columns that a header names; `None` where no cell is one we know.
fn header(record: &csv::StringRecord, line: u64) -> Result<Option<Columns>, Note> {
    let plain = |cell: &str| -> String {
        cell.chars().filter(char::is_ascii_alphanumeric).map(|sign| sign.to_ascii_lowercase()).collect()
    };
    let find = |names: &[&str]| record.iter().position(|cell| names.contains(&plain(cell).as_str()));
    match (find(EXTERNAL), find(ENDPOINT), find(INTERNAL)) {
        (None, None, None) => Ok(None),
        (Some(external), endpoint, Some(internal)) => Ok(Some(Columns { external, endpoint, internal })),
        _ => {
            let found = format!("the header {}", record.iter().collect::<Vec<_>>().join(", "));
            let why = "expected the columns ExternalUrl, EndpointName and InternalUrl, or no header at all";
            Err(Note::new(line, found, why))
        }
    }
}

/// What separates columns, and how many lines stand before the table.
fn separator(text: &str) -> (u8, u64) {
    for (line, skipped) in text.lines().zip(0..) {
        let line = line.trim();
        if let Some(sign @ (b',' | b';' | b'\t')) =
            line.strip_prefix("sep=").and_then(|rest| rest.bytes().next())
        {
            return (sign, skipped + 1);
        }
        if !line.is_empty() && !line.starts_with('#') {
            let count = |sign: &u8| outside_quotes(line).filter(|octet| octet == sign).count();
            let best = [b'\t', b';', b','].into_iter().max_by_key(count);
            return (best.unwrap_or(b','), 0);
        }
    }
    (b',', 0)
}

fn outside_quotes(line: &str) -> impl Iterator<Item = u8> {
    let mut quoted = false;
    line.bytes().filter(move |octet| {
        quoted ^= *octet == b'"';
        !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> (u64, String, String, String) {
        let row = read(text).unwrap().rows.remove(0);
        (row.line, row.external, row.endpoint, row.internal)
    }

    fn expected(line: u64) -> (u64, String, String, String) {
        (line, "a".into(), "b".into(), "c".into())
    }

    #[test]
    fn columns_are_found_by_header_or_by_order() {
        let rows = [
            ("ExternalUrl,EndpointName,InternalUrl\na,b,c\n", 2),
            ("\"External URL\",\"Endpoint Name\",\"Internal URL\"\n\"a\",\"b\",\"c\"\n", 2),
            ("INTERNAL_URL;x;external_url;endpoint\r\nc;y;a;b\r\n", 2),
            ("internalurl\texternalurl\tname\nc\ta\tb", 2),
            ("a,b,c\n", 1),
            ("a;b;c", 1),
            ("sep=;\nExternalUrl;Endpoint;InternalUrl\na;b;c", 3),
            ("#TYPE Selected.System.Object\n\"ExternalUrl\",\"EndpointName\",\"InternalUrl\"\na,b,c\n", 3),
            ("\n\nExternalUrl,Endpoint,InternalUrl\n\n,,\na, b ,c\n", 6),
        ];
        for (text, line) in rows {
            assert_eq!(first(text), expected(line), "{text:?}");
        }
        assert_eq!(first("a,c\n"), (1, "a".into(), String::new(), "c".into()));
    }

    #[test]
    fn a_line_inside_quotes_counts() {
        let rows = read("ExternalUrl,EndpointName,InternalUrl\n\"a\nb\",x,y\nc,d,e\n").unwrap().rows;
        assert_eq!([rows[0].line, rows[1].line], [2, 4]);
    }

    #[test]
    fn a_header_that_lacks_a_column_and_a_table_without_rows_are_told() {
        for (text, part) in [
            ("ExternalUrl,Endpoint\na,b\n", "ExternalUrl, Endpoint"),
            ("ExternalUrl,InternalUrl\n", "no rows"),
            ("", "no rows"),
            ("# nothing\n", "no rows"),
        ] {
            assert!(read(text).unwrap_err().found.contains(part), "{text:?}");
        }
    }

    #[test]
    fn every_usual_encoding_is_read() {
        let text = "ExternalUrl,b\u{fc}ro\n";
        let wide = |unit: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let rows = [
            text.as_bytes().to_vec(),
            [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
            [&[0xFF, 0xFE][..], &wide(u16::to_le_bytes)].concat(),
            [&[0xFE, 0xFF][..], &wide(u16::to_be_bytes)].concat(),
            wide(u16::to_le_bytes),
        ];
        for bytes in rows {
            assert_eq!(decode(&bytes).as_deref(), Ok(text));
        }
        assert_eq!(decode(b"a\nb\xFFc").unwrap_err().line, 2);
        assert!(decode(b"\xFF\xFE\x00\xD8a\x00").is_err());
        assert_eq!(decode(b"").as_deref(), Ok(""));
    }
}
