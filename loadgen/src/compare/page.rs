//! A comparison as one HTML page.

use super::difference::Difference;
use super::{Comparison, Side};
use crate::report::page::{curve, document, rate, table};
use maud::{Markup, html};

/// The page.
pub fn page(comparison: &Comparison) -> String {
    let Comparison { a, b, differences, figures, .. } = comparison;
    let is_many = a.files.len() + b.files.len() > 2;
    let range = |range: Option<(f64, f64)>, figure: &super::Compared| {
        range.map_or("–".into(), |(least, most)| {
            format!("{} … {}", figure.shown(Some(least)), figure.shown(Some(most)))
        })
    };
    let rows = figures.iter().map(|figure| {
        let mut row = vec![
            figure.title(),
            figure.shown(figure.a),
            figure.shown(figure.b),
            figure.ratio.map_or("–".into(), |ratio| format!("{ratio:.3}")),
        ];
        if is_many {
            row.extend([range(figure.a_range, figure), range(figure.b_range, figure)]);
            row.push(figure.clear.map_or(String::new(), |clear| clear.word().to_owned()));
        }
        row
    });
    let head: &[&str] = if is_many {
        &["median", "A", "B", "B / A", "range of A", "range of B", "clear"]
    } else {
        &["figure", "A", "B", "B / A"]
    };
    let runs: Vec<_> = [("A", a.middle()), ("B", b.middle())]
        .into_iter()
        .filter_map(|(name, report)| Some((name, report?)))
        .collect();
    let body = html! {
        header { h1 { "loadgen comparison" } (side("A", a)) (side("B", b)) }
        main {
            h2 { "Different besides the figures" }
            (different(differences))
            h2 { "Figures" }
            (table(head, rows))
            h2 { "Pictures" }
            @if is_many { p.soft { "Of the run with the middle p99 on each side." } }
            (curve(&runs))
            (rate(&runs))
        }
    };
    document("loadgen comparison", &body)
}

fn side(name: &str, side: &Side) -> Markup {
    let dates = side.reports.iter().map(|report| report.run.started.as_str()).collect::<Vec<_>>().join(", ");
    html! { p { b { (name) } ": " code { (side.files.join(", ")) } " " span.soft { (dates) } } }
}

fn different(differences: &[Difference]) -> Markup {
    if differences.is_empty() {
        return html! { p.good { "Nothing: flags, program and machine are the same." } };
    }
    let row = |one: &Difference| vec![format!("{} {}", one.kind, one.name), one.a.clone(), one.b.clone()];
    html! {
        p.bad { "Figures of different work or different machines do not compare the programs measured." }
        (table(&["what", "A", "B"], differences.iter().map(row)))
    }
}
