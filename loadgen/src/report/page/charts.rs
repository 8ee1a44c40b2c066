//! Charts as SVG, by plotters. Colours are marks that the page's style sheet replaces, so that one picture suits light and
//! dark; words for those who do not see a picture stand in its label and in the table beside it.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use std::fmt::Write;
use std::ops::Range;

const SIZE: (u32, u32) = (960, 320);
const GRID: RGBColor = RGBColor(0x0A, 0, 0);
const AXIS: RGBColor = RGBColor(0x0A, 0, 1);
const TEXT: RGBColor = RGBColor(0x0A, 0, 2);
const SHADE: RGBColor = RGBColor(0x0A, 0, 3);
/// Lines that have colours of their own; further ones begin anew.
pub const COLOURS: u8 = 6;
/// Cells of a heat map: more could not be told apart.
const HEAT_COLUMNS_MAX: usize = 240;
const HEAT_ROWS: usize = 44;
/// Shades of a heat map.
const HEAT_LEVELS: usize = 8;

/// One axis: values are placed as they are.
#[derive(Clone, Debug)]
pub struct Axis {
    /// From the first to the last value shown.
    pub range: Range<f64>,
    /// Where marks stand, and what they say.
    pub ticks: Vec<(f64, String)>,
    /// What it shows.
    pub name: &'static str,
}

impl Axis {
    /// From zero to a round number at or above `most`, with about `count` marks.
    pub fn linear(name: &'static str, most: f64, count: usize, show: impl Fn(f64) -> String) -> Self {
        let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
        let step = round_step(most / count as f64);
        let marks = (most / step - 1e-9).ceil().max(1.0) as usize;
        let ticks = (0..=marks).map(|mark| mark as f64 * step).map(|at| (at, show(at))).collect();
        Self { range: 0.0..marks as f64 * step, ticks, name }
    }

    /// From zero to exactly `most`.
    pub fn until(name: &'static str, most: f64, count: usize, show: impl Fn(f64) -> String) -> Self {
        let Self { range, mut ticks, name } = Self::linear(name, most, count, show);
        let end = if most > 0.0 { most } else { range.end };
        ticks.retain(|(at, _)| *at <= end);
        Self { range: 0.0..end, ticks, name }
    }

    /// Powers of ten and their parts; values are placed by their logarithm.
    pub fn logarithmic(name: &'static str, least: f64, most: f64, show: impl Fn(f64) -> String) -> Self {
        let least = if least.is_finite() && least > 0.0 { least } else { 0.001 };
        let most = if most.is_finite() { most.max(least * 2.0) } else { least * 10.0 };
        let decades = most.log10() - least.log10();
        let parts: &[f64] = if decades < 1.5 {
            &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0]
        } else if decades < 3.5 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let (first, last) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        let marks = (first..=last).flat_map(|power| parts.iter().map(move |part| part * 10f64.powi(power)));
        let ticks = marks.filter(|at| *at >= least * 0.999 && *at <= most * 1.001);
        Self {
            range: least.log10()..most.log10(),
            ticks: ticks.map(|at| (at.log10(), show(at))).collect(),
            name,
        }
    }

    /// Parts of all on a scale of nines, up to those that `count` samples can tell apart.
    pub fn nines(name: &'static str, count: u64) -> Self {
        let end = nines(1.0, count);
        let marks = [(0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];
        let more = [(0.9999, "99.99 %"), (0.99999, "99.999 %"), (0.999999, "99.9999 %")];
        let known = marks.iter().chain(&more).filter(|(part, _)| 1.0 - part > 0.999 * least_part(count));
        let ticks = known.map(|(part, text)| (nines(*part, count), (*text).to_owned()));
        // What so few samples cannot tell apart has no mark of its own.
        Self { range: 0.0..end, ticks: ticks.collect(), name }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Marks alone have lines; there are no lighter ones between them.
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.ticks.iter().map(|tick| tick.0).collect()
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, at: &f64) -> String {
        let text = self.ticks.iter().find(|(tick, _)| tick == at).map(|(_, text)| text.clone());
        text.unwrap_or_default()
    }
}

/// Where a part of all stands on a scale of nines.
pub fn nines(part: f64, count: u64) -> f64 {
    -(1.0 - part).max(least_part(count)).log10()
}

/// Half of what one sample is of all.
fn least_part(count: u64) -> f64 {
    1.0 / (2.0 * count.max(5) as f64)
}

fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let part = raw / power;
    power * [1.0, 2.0, 2.5, 5.0].into_iter().find(|step| part <= *step + 1e-9).unwrap_or(10.0)
}

/// A line through points.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// Its colour, from 1.
    pub colour: u8,
    /// Pieces of it: where nothing is known the line is broken.
    pub pieces: Vec<Vec<(f64, f64)>>,
}

impl Line {
    /// A line whose points may be missing.
    pub fn new(
        name: impl Into<String>,
        index: usize,
        points: impl IntoIterator<Item = (f64, Option<f64>)>,
    ) -> Self {
        let (mut pieces, mut piece) = (Vec::new(), Vec::new());
        for (x, y) in points {
            match y {
                Some(y) => piece.push((x, y)),
                None => pieces.push(std::mem::take(&mut piece)),
            }
        }
        pieces.push(piece);
        pieces.retain(|piece| !piece.is_empty());
        Self { name: name.into(), colour: (index % usize::from(COLOURS)) as u8 + 1, pieces }
    }

    /// The highest point.
    pub fn most(&self) -> f64 {
        self.pieces.iter().flatten().map(|(_, y)| *y).fold(0.0, f64::max)
    }
}

/// A picture: lines on two axes, with parts of the width shaded and, for a heat map, cells behind the lines.
#[derive(Debug)]
pub struct Chart<'a> {
    /// What is seen, in words.
    pub label: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// What is drawn.
    pub lines: &'a [Line],
    /// Parts of the width that are not measured.
    pub shaded: Vec<Range<f64>>,
    /// Cells.
    pub cells: Vec<Cell>,
}

/// A cell of a heat map, in the values of the axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Its width.
    pub x: Range<f64>,
    /// Its height.
    pub y: Range<f64>,
    /// How many it stands for.
    pub count: u64,
}

type Fault = DrawingAreaErrorKind<std::io::Error>;

impl Chart<'_> {
    /// The picture as SVG.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let drawn = self.draw(&area);
        drop(area);
        let (Ok(inside), Some(body)) = (drawn, svg.find('>')) else { return String::new() };
        let body = svg[body + 1..].trim().trim_end_matches("</svg>");
        let (width, height) = SIZE;
        let label = plain(&self.label);
        // Cells lie under everything else but let the grid through.
        format!(
            "<svg role=\"img\" viewBox=\"0 0 {width} {height}\" xmlns=\"http://www.w3.org/2000/svg\" aria-label=\"{label}\">\n{}{body}</svg>",
            self.cells(&inside)
        )
    }

    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(Range<i32>, Range<i32>), Fault> {
        let mut chart = ChartBuilder::on(area)
            .margin_top(12)
            .margin_right(24)
            .x_label_area_size(46)
            .y_label_area_size(84)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        for part in &self.shaded {
            let corners = [(part.start, self.y.range.start), (part.end, self.y.range.end)];
            chart.draw_series([Rectangle::new(corners, SHADE.mix(0.13).filled())])?;
        }
        chart
            .configure_mesh()
            .axis_style(AXIS)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 16).into_font().color(&TEXT))
            .axis_desc_style(("sans-serif", 16).into_font().color(&TEXT))
            .x_labels(self.x.ticks.len())
            .y_labels(self.y.ticks.len())
            .x_desc(self.x.name)
            .y_desc(self.y.name)
            .draw()?;
        for line in self.lines {
            let colour = RGBColor(0x0B, 0, line.colour);
            for piece in &line.pieces {
                if let [(x, y)] = piece[..] {
                    chart.draw_series([Circle::new((x, y), 2, colour.stroke_width(2))])?;
                } else {
                    chart.draw_series(LineSeries::new(piece.iter().copied(), colour.stroke_width(2)))?;
                }
            }
        }
        area.present()?;
        Ok(chart.plotting_area().get_pixel_range())
    }

    /// Cells as one path for each shade.
    fn cells(&self, (width, height): &(Range<i32>, Range<i32>)) -> String {
        let most = self.cells.iter().map(|cell| cell.count).max().unwrap_or(0);
        let place = |at: f64, axis: &Axis, pixels: &Range<i32>| {
            let part = (at - axis.range.start) / (axis.range.end - axis.range.start);
            f64::from(pixels.start) + part.clamp(0.0, 1.0) * f64::from(pixels.end - pixels.start)
        };
        let mut paths = vec![String::new(); HEAT_LEVELS];
        for cell in &self.cells {
            let (left, right) = (place(cell.x.start, &self.x, width), place(cell.x.end, &self.x, width));
            // Pixels grow downwards, values upwards.
            let base = f64::from(height.start + height.end);
            let (bottom, top) =
                (base - place(cell.y.start, &self.y, height), base - place(cell.y.end, &self.y, height));
            let path = &mut paths[level(cell.count, most)];
            let _ = write!(path, "M{left:.1} {top:.1}H{right:.1}V{bottom:.1}H{left:.1}z");
        }
        let mut svg = String::new();
        for (level, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            let opacity = 0.08 + 0.92 * (level + 1) as f64 / HEAT_LEVELS as f64;
            let _ = writeln!(svg, "<path class=\"heat\" fill-opacity=\"{opacity:.2}\" d=\"{path}\"/>");
        }
        svg
    }
}

/// The shade of a count, by its logarithm: the few slow ones are to be seen beside the many fast ones.
fn level(count: u64, most: u64) -> usize {
    let part = if most <= 1 { 1.0 } else { (count as f64).ln() / (most as f64).ln() };
    ((part * HEAT_LEVELS as f64) as usize).min(HEAT_LEVELS - 1)
}

/// Start and end of a column of a heat map in seconds, and its latencies in milliseconds with their counts.
pub type Column = (Range<f64>, Vec<(f64, u64)>);

/// The cells of a heat map.
pub fn heat(columns: &[Column], y: &Axis) -> Vec<Cell> {
    let group = columns.len().div_ceil(HEAT_COLUMNS_MAX).max(1);
    let height = (y.range.end - y.range.start) / HEAT_ROWS as f64;
    let mut cells = Vec::new();
    for columns in columns.chunks(group) {
        let (Some(first), Some(last)) = (columns.first(), columns.last()) else { continue };
        let mut rows = [0u64; HEAT_ROWS];
        for (millis, count) in columns.iter().flat_map(|(_, samples)| samples) {
            let row = ((millis.log10() - y.range.start) / height).floor();
            rows[(row.max(0.0) as usize).min(HEAT_ROWS - 1)] += count;
        }
        for (row, count) in rows.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let bottom = y.range.start + row as f64 * height;
            cells.push(Cell { x: first.0.start..last.0.end, y: bottom..bottom + height, count });
        }
    }
    cells
}

/// Text fit for an attribute.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let axis = Axis::linear("x", 973.0, 5, |at| at.to_string());
        assert_eq!((axis.range.clone(), axis.ticks.len()), (0.0..1000.0, 6));
        assert_eq!(Axis::linear("x", 0.0, 4, |at| at.to_string()).range, 0.0..1.0);
        assert_eq!(Axis::linear("x", f64::NAN, 4, |at| at.to_string()).range, 0.0..1.0);
        let axis = Axis::until("x", 9.3, 4, |at| at.to_string());
        assert_eq!((axis.range.end, axis.ticks.last().map(|tick| tick.0)), (9.3, Some(7.5)));
    }

    #[test]
    fn logarithmic_axes_have_marks_for_every_width() {
        for (least, most) in [(0.1, 0.2), (0.1, 5.0), (0.05, 40.0), (0.01, 9000.0), (0.0, 0.0), (3.0, 3.0)] {
            let axis = Axis::logarithmic("y", least, most, |at| at.to_string());
            assert!((2..14).contains(&axis.ticks.len()), "{least} {most}: {:?}", axis.ticks);
            assert!(axis.range.end > axis.range.start);
        }
    }

    #[test]
    fn a_scale_of_nines_ends_where_samples_do() {
        assert_eq!(nines(0.9, 1000), 1.0);
        assert!((nines(0.999, 1_000_000) - 3.0).abs() < 1e-9);
        assert!((nines(1.0, 500) - 3.0).abs() < 1e-9);
        let texts = |count| Axis::nines("x", count).ticks.last().map(|tick| tick.1.clone());
        assert_eq!(texts(500).as_deref(), Some("99.9 %"));
        assert_eq!(texts(10).as_deref(), Some("90 %"));
    }

    #[test]
    fn lines_break_where_nothing_is_known() {
        let line = Line::new("x", 7, [(0.0, Some(1.0)), (1.0, None), (2.0, None), (3.0, Some(4.0))]);
        assert_eq!(line.pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        assert_eq!((line.most(), line.colour), (4.0, 2));
    }

    #[test]
    fn heat_keeps_every_sample_and_bounds_its_cells() {
        let y = Axis::logarithmic("y", 0.1, 100.0, |at| at.to_string());
        let columns: Vec<_> = (0..1000)
            .map(|second| (f64::from(second)..f64::from(second + 1), vec![(0.1, 5), (100.0, 1), (3.0, 2)]))
            .collect();
        let cells = heat(&columns, &y);
        assert_eq!(cells.iter().map(|cell| cell.count).sum::<u64>(), 8000);
        assert!(cells.len() <= HEAT_COLUMNS_MAX * 3, "{}", cells.len());
        assert_eq!((level(1, 1), level(1, 1000), level(1000, 1000)), (7, 0, 7));
    }

    #[test]
    fn a_chart_is_one_labelled_svg() {
        let lines = [Line::new("a", 0, [(0.0, Some(0.0)), (10.0, Some(5.0))])];
        let chart = Chart {
            label: "rate <over> \"time\"".into(),
            x: Axis::until("seconds", 10.0, 5, |at| at.to_string()),
            y: Axis::linear("rate", 5.0, 4, |at| at.to_string()),
            lines: &lines,
            shaded: vec![0.0..2.0],
            cells: vec![Cell { x: 0.0..1.0, y: 0.0..1.0, count: 3 }],
        };
        let svg = chart.svg();
        assert!(svg.starts_with("<svg role=\"img\"") && svg.ends_with("</svg>"), "{svg}");
        assert!(svg.contains("aria-label=\"rate &lt;over> &quot;time&quot;\""), "{svg}");
        assert_eq!((svg.matches("<svg").count(), svg.matches("<path").count()), (1, 1));
        assert!(svg.contains("#0B0001") && svg.contains("<polyline"), "{svg}");
    }
}
