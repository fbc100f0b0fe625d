//! Plots of a report, as SVG: contenders as horizontal bars from the top, a bar's end at the median, whiskers from p10 to p90.
//!
//! Bars are laid out here in pixels, so that no label is cut, whatever its length; plotters draws them. The background is
//! white, so that a plot can be read on pages of any colour.

mod scale;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::{
    BLACK, Color, DrawingArea, IntoDrawingArea, IntoTextStyle, PathElement, RGBColor, Rectangle, SVGBackend, Text,
    WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use self::scale::Scale;
use crate::harness::Unit;
use crate::report::figure;
use crate::stats::Summary;

const WIDTH: i32 = 960;
const ROW: i32 = 26;
const BAR: i32 = 15;
const TITLE: i32 = 44;
const HEADING: i32 = 28;
const AXIS: i32 = 52;
/// Room for the figure behind a bar.
const FIGURE: i32 = 110;
const FONT: i32 = 13;
/// The width of a letter in that size, at most on average.
const LETTER: i32 = 7;

const BLUE: RGBColor = RGBColor(38, 103, 178);
const GREY: RGBColor = RGBColor(150, 156, 164);
const GRID: RGBColor = RGBColor(222, 225, 229);
const INK: RGBColor = RGBColor(30, 34, 40);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A plot of figures that have one unit.
#[derive(Debug)]
pub struct Plot {
    pub title: String,
    pub unit: Unit,
    pub groups: Vec<Group>,
}

/// Bars that belong together.
#[derive(Debug)]
pub struct Group {
    /// What stands above them; may be empty.
    pub heading: String,
    pub bars: Vec<Bar>,
}

/// A contender.
#[derive(Clone, Debug)]
pub struct Bar {
    pub label: String,
    pub summary: Summary,
}

/// Where things are.
struct Layout {
    left: i32,
    right: i32,
    bottom: i32,
    scale: Scale,
}

impl Layout {
    fn x(&self, value: f64) -> i32 {
        let width = f64::from(self.right.saturating_sub(self.left));
        #[expect(clippy::cast_possible_truncation, reason = "a part of the width")]
        let offset = (self.scale.part(value) * width).round() as i32;
        self.left.saturating_add(offset)
    }
}

impl Plot {
    /// Draws it.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        let height = self.height();
        {
            let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            self.draw(&area, &self.layout(height)).map_err(|error| anyhow!("The plot can't be drawn: {error}"))?;
        }
        Ok(svg)
    }

    fn bars(&self) -> impl Iterator<Item = &Bar> + Clone {
        self.groups.iter().flat_map(|group| &group.bars)
    }

    fn height(&self) -> i32 {
        let group = |group: &Group| heading_height(group) + ROW * i32::try_from(group.bars.len()).unwrap_or(0);
        TITLE + self.groups.iter().map(group).sum::<i32>() + AXIS
    }

    fn layout(&self, height: i32) -> Layout {
        let longest = self.bars().map(|bar| bar.label.chars().count()).max().unwrap_or(0);
        let left = 24 + LETTER * i32::try_from(longest).unwrap_or(0).min(70);
        let scale = Scale::of(self.bars().map(|bar| bar.summary));
        Layout { left, right: WIDTH - FIGURE, bottom: height - AXIS, scale }
    }

    fn draw(&self, area: &Area<'_>, layout: &Layout) -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        text(area, &self.title, (16, TITLE / 2), HPos::Left, FONT + 4)?;
        self.draw_axis(area, layout)?;
        let mut y = TITLE;
        for group in &self.groups {
            if !group.heading.is_empty() {
                text(area, &group.heading, (16, y + HEADING / 2), HPos::Left, FONT)?;
            }
            y += heading_height(group);
            for bar in &group.bars {
                self.draw_bar(area, layout, bar, y + ROW / 2)?;
                y += ROW;
            }
        }
        Ok(())
    }

    fn draw_axis(&self, area: &Area<'_>, layout: &Layout) -> Result<(), Box<dyn std::error::Error>> {
        for (value, label) in layout.scale.ticks() {
            let x = layout.x(value);
            area.draw(&PathElement::new([(x, TITLE), (x, layout.bottom)], GRID))?;
            text(area, &label, (x, layout.bottom + 12), HPos::Center, FONT - 1)?;
        }
        let better = if self.unit.is_rate() { "more" } else { "less" };
        let kind = if layout.scale.is_logarithmic() { ", logarithmic" } else { "" };
        let unit = self.unit.symbol();
        let words = format!("{unit}{kind}: {better} is better; median, whiskers p10 to p90");
        text(area, &words, (i32::midpoint(layout.left, layout.right), layout.bottom + 34), HPos::Center, FONT - 1)
    }

    fn draw_bar(&self, area: &Area<'_>, layout: &Layout, bar: &Bar, y: i32) -> Result<(), Box<dyn std::error::Error>> {
        let Summary { median, p10, p90, .. } = bar.summary;
        let (end, low, high) = (layout.x(median), layout.x(p10), layout.x(p90));
        let colour = if self.is_ours(bar) { BLUE } else { GREY };
        let corners = [(layout.left, y - BAR / 2), (end, y + BAR / 2)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        let whisker = BLACK.stroke_width(1);
        area.draw(&PathElement::new([(low, y), (high, y)], whisker))?;
        for x in [low, high] {
            area.draw(&PathElement::new([(x, y - 4), (x, y + 4)], whisker))?;
        }
        text(area, &bar.label, (layout.left - 8, y), HPos::Right, FONT)?;
        text(area, &format!("{} {}", figure(median), self.unit.symbol()), (end.max(high) + 8, y), HPos::Left, FONT)
    }

    /// taskrun's bars stand out where there are others.
    fn is_ours(&self, bar: &Bar) -> bool {
        let ours = |bar: &Bar| bar.label.starts_with("taskrun");
        ours(bar) || !self.bars().any(ours)
    }
}

fn heading_height(group: &Group) -> i32 {
    if group.heading.is_empty() { 0 } else { HEADING }
}

fn text(area: &Area<'_>, words: &str, at: (i32, i32), side: HPos, size: i32) -> Result<(), Box<dyn std::error::Error>> {
    let style = ("sans-serif", size).into_text_style(area).color(&INK).pos(Pos::new(side, VPos::Center));
    Ok(area.draw(&Text::new(words.to_owned(), at, style))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats;

    fn bar(label: &str, samples: &[f64]) -> Bar {
        Bar { label: label.to_owned(), summary: stats::summary(samples).unwrap() }
    }

    fn plot(groups: Vec<Group>) -> Plot {
        Plot { title: "A <title>".to_owned(), unit: Unit::Milliseconds, groups }
    }

    #[test]
    fn a_plot_has_all_labels_and_figures_and_a_background() {
        let bars = vec![bar("taskrun", &[4.0, 5.0, 6.0]), bar("another & slower", &[5000.0])];
        let svg = plot(vec![Group { heading: "Both".to_owned(), bars }]).svg().unwrap();
        for part in [
            "A &lt;title&gt;",
            "Both",
            "taskrun",
            "another &amp; slower",
            "5.00 ms",
            "5000 ms",
            "#FFFFFF",
            "logarithmic",
        ] {
            assert!(svg.contains(part), "no {part:?} in {svg}");
        }
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn labels_have_room_and_bars_end_where_their_values_are() {
        let long = "x".repeat(50);
        let plot = plot(vec![Group { heading: String::new(), bars: vec![bar(&long, &[50.0]), bar("y", &[100.0])] }]);
        let layout = plot.layout(plot.height());
        assert!(layout.left > 50 * LETTER);
        assert_eq!(layout.x(0.0), layout.left);
        assert!(layout.x(100.0) <= layout.right && layout.x(100.0) > layout.x(50.0));
    }

    #[test]
    fn only_taskruns_bars_stand_out_beside_others() {
        let bars = vec![bar("taskrun, cold", &[1.0]), bar("crun", &[1.0])];
        let mixed = plot(vec![Group { heading: String::new(), bars }]);
        assert_eq!(mixed.bars().map(|bar| mixed.is_ours(bar)).collect::<Vec<_>>(), [true, false]);
        let others = plot(vec![Group { heading: String::new(), bars: vec![bar("pmem", &[1.0])] }]);
        assert!(others.bars().all(|bar| others.is_ours(bar)));
    }
}
