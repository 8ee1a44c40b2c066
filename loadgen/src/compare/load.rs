//! Reads a report back, and says which field of which file is wrong.

use crate::report::{FORMAT, Report, VERSION};
use serde_json::Value;
use std::path::Path;

/// The report in `file`. Errors: a text for the user, with the file and the field.
pub fn load(file: &Path) -> Result<Report, String> {
    let explain = |error: String| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| explain(error.to_string()))?;
    parse(&text).map_err(explain)
}

fn parse(text: &str) -> Result<Report, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    let field = |name: &str| {
        value.get(name).ok_or_else(|| format!("field {name} is missing: is it a report of loadgen?"))
    };
    let format = field("format")?;
    if format != FORMAT {
        return Err(format!("field format: expected \"{FORMAT}\", found {format}"));
    }
    let version = field("version")?;
    if version != VERSION {
        return Err(format!("field version: this loadgen reads {VERSION}, found {version}"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        // A missing field is named by the error itself, and stands where the path ends.
        match path.as_str() {
            "." => error.inner().to_string(),
            path => format!("field {path}: {}", error.inner()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use serde_json::json;

    fn changed(change: impl Fn(&mut Value)) -> Result<Report, String> {
        let mut value = serde_json::to_value(sample().0).expect("written");
        change(&mut value);
        parse(&value.to_string())
    }

    #[test]
    fn a_report_is_read_and_what_a_later_version_adds_is_passed_over() {
        // A number may come back another in its last digit.
        let (back, report) = (changed(|_| {}).expect("read"), sample().0);
        assert_eq!(format!("{back:.6?}"), format!("{report:.6?}"));
        assert!(changed(|value| value["something_new"] = json!(1)).is_ok());
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        for (change, mention) in [
            (&(|value: &mut Value| value["format"] = json!("x")) as &dyn Fn(&mut Value), "field format"),
            (&|value| value["version"] = json!(9), "field version: this loadgen reads 1, found 9"),
            (&|value| *value = json!([]), "field format is missing"),
            (&|value| value["latency"]["p99_ms"] = json!("fast"), "field latency.p99_ms"),
            (
                &|value| value["processes"][0]["cpu_micros_per_request"] = json!([]),
                "field processes[0].cpu_micros_per_request",
            ),
            (&|value| drop(value["timeline"][3]["rate"].take()), "field timeline[3].rate"),
            (
                &|value| drop(value.as_object_mut().and_then(|fields| fields.remove("rate"))),
                "missing field `rate`",
            ),
        ] {
            let error = changed(change).expect_err(mention);
            assert!(error.contains(mention), "{mention}: {error}");
        }
        assert!(parse("{").expect_err("no JSON").contains("is no JSON"));
    }
}
