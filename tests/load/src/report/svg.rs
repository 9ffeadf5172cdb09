//! Horizontal bars in groups, as SVG that reads well on light and on dark ground.
//!
//! A small writer of its own: no fonts, no scripts, colours by style sheet, nothing but text and
//! rectangles. A bar that is longer than the axis is cut and says its number, as all bars do.

use std::fmt::{Result, Write as _};

use super::markdown::short;

/// A chart.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// What the bars of each group stand for, in order.
    pub(crate) series: Vec<Series>,
    pub(crate) groups: Vec<Group>,
    /// The value at the right end.
    pub(crate) axis: f64,
    /// A line across all groups, and what it stands for.
    pub(crate) line: Option<(f64, String)>,
}

/// What one bar of every group stands for.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Number of its colour, 0 to 5: the same in all charts.
    pub(crate) colour: usize,
}

/// Bars that belong together.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) label: String,
    /// One for each series; `None` leaves a gap.
    pub(crate) values: Vec<Option<f64>>,
}

impl Chart {
    /// The chart as a document.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> Result {
        let group_height = self.series.len() * BAR + GAP;
        let height = TOP + self.groups.len() * group_height + BOTTOM;
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{}\">\n{STYLE}",
            escape(&self.title)
        )?;
        writeln!(
            out,
            "<rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>"
        )?;
        text(out, "title", MARGIN, 26, "start", &self.title)?;
        text(out, "quiet", MARGIN, 44, "start", &self.subtitle)?;
        let mut at = MARGIN;
        for Series { name, colour } in &self.series {
            rectangle(out, *colour, at, 56, BAR as f64, BAR - 2)?;
            text(out, "quiet", at + BAR + 4, 65, "start", name)?;
            at += BAR + 16 + name.chars().count() * LETTER;
        }
        if let Some((value, name)) = &self.line {
            let x = LEFT as f64 + self.length(*value);
            let (from, to) = (TOP - 6, height - BOTTOM + 2);
            writeln!(
                out,
                "<line class=\"line\" x1=\"{x:.1}\" y1=\"{from}\" x2=\"{x:.1}\" y2=\"{to}\"/>"
            )?;
            text(out, "quiet", x as usize, to + 14, "middle", name)?;
        }
        for (index, group) in self.groups.iter().enumerate() {
            let top = TOP + index * group_height;
            let middle = top + self.series.len() * BAR / 2 + 4;
            text(out, "label", LEFT - 10, middle, "end", &group.label)?;
            for (at, (series, value)) in self.series.iter().zip(&group.values).enumerate() {
                if let Some(value) = value {
                    let (y, length) = (top + at * BAR, self.length(*value));
                    rectangle(out, series.colour, LEFT, y, length, BAR - 2)?;
                    let end = LEFT + length.ceil() as usize + 4;
                    text(out, "value", end, y + BAR - 4, "start", &short(*value))?;
                }
            }
        }
        writeln!(out, "</svg>")
    }

    /// Length of a bar.
    fn length(&self, value: f64) -> f64 {
        let share = (value / self.axis).clamp(0.0, 1.0);
        share * (WIDTH - LEFT - RIGHT) as f64
    }
}

fn text(out: &mut String, class: &str, x: usize, y: usize, anchor: &str, words: &str) -> Result {
    writeln!(
        out,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
        escape(words)
    )
}

fn rectangle(
    out: &mut String,
    colour: usize,
    x: usize,
    y: usize,
    width: f64,
    height: usize,
) -> Result {
    writeln!(
        out,
        "<rect class=\"s{colour}\" x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" rx=\"1.5\"/>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const WIDTH: usize = 760;
const MARGIN: usize = 16;
/// Where bars begin.
const LEFT: usize = 210;
/// Room for the number of the longest bar.
const RIGHT: usize = 60;
const TOP: usize = 88;
const BOTTOM: usize = 30;
const BAR: usize = 12;
const GAP: usize = 14;
/// About the width of a letter.
const LETTER: usize = 7;
const STYLE: &str = "<style>
.ground { fill: #ffffff; }
text { font: 12px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.quiet { fill: #59636e; }
.value { font-size: 10px; fill: #59636e; }
.line { stroke: #59636e; stroke-dasharray: 4 3; }
.s0 { fill: #1f6feb; } .s1 { fill: #2da44e; } .s2 { fill: #bf8700; } .s3 { fill: #a475f9; } .s4 { fill: #e16f24; } .s5 { fill: #8c959f; }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117; }
text { fill: #e6edf3; } .quiet, .value { fill: #9198a1; } .line { stroke: #9198a1; }
}
</style>";

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: Vec<Option<f64>>) -> String {
        Chart {
            title: "a < b & \"c\"".to_owned(),
            subtitle: String::new(),
            series: ["one", "two"]
                .into_iter()
                .enumerate()
                .map(|(colour, name)| Series {
                    name: name.to_owned(),
                    colour,
                })
                .collect(),
            groups: vec![Group {
                label: "row".to_owned(),
                values,
            }],
            axis: 2.0,
            line: Some((1.0, "here".to_owned())),
        }
        .render()
    }

    fn widths(svg: &str) -> Vec<&str> {
        let bars = svg
            .lines()
            .filter(|line| line.starts_with("<rect class=\"s"));
        // The first two are the legend.
        bars.skip(2)
            .map(|line| line.split('"').nth(7).unwrap())
            .collect()
    }

    #[test]
    fn bars_are_as_long_as_their_values_and_no_longer_than_the_axis() {
        let whole = (WIDTH - LEFT - RIGHT) as f64;
        let svg = chart(vec![Some(1.0), Some(5.0)]);
        assert_eq!(
            widths(&svg),
            [format!("{:.1}", whole / 2.0), format!("{whole:.1}")]
        );
        assert!(svg.contains(">5.00<"), "a cut bar says its number");
    }

    #[test]
    fn a_missing_value_leaves_a_gap_and_words_are_escaped() {
        let svg = chart(vec![None, Some(1.0)]);
        assert_eq!(widths(&svg).len(), 1);
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
